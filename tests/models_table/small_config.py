"""Makes a small configuration for any architecture of transformers: its default one with smaller sizes.

Architectures use the same names for their sizes (`hidden_size`, `num_hidden_layers`), so one table of small values fits
most of them. `special_sizes` has what an architecture needs in addition.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from models_table.special_sizes import SPECIAL
from transformers import CONFIG_MAPPING, PreTrainedConfig

END_TOKEN, PAD_TOKEN, START_TOKEN = 2, 1, 5
"""Ids of the special tokens of the tokenizer that all models of the table share. The tokenizer has no token for the
start of a text, so the first word of its vocabulary serves as one."""

WIDTH, INNER, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH, POSITIONS, EXPERTS = 32, 64, 2, 4, 2, 8, 64, 4
"""Sizes of a small model. `HEAD_WIDTH` is also the size of states and windows."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "lru_width"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size"), WIDTH),
    **dict.fromkeys(("projection_dim", "pooler_hidden_size", "pooler_output_size", "prompt_mid_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_inner", "d_ff", "dff", "dim_ff", "hidden_dim"), INNER),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "feed_forward_size", "n_inner"), INNER),
    **dict.fromkeys(("dense_intermediate_size", "intermediate_size_mlp", "shared_intermediate_size"), INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), WIDTH),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_decoder_attention_heads", "index_n_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads", "mamba_num_heads", "mamba_n_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), KEY_VALUE_HEADS),
    **dict.fromkeys(("linear_num_key_heads",), KEY_VALUE_HEADS),
    **dict.fromkeys(("head_dim", "d_head", "d_kv", "dim_head", "kv_channels", "attention_head_size"), HEAD_WIDTH),
    **dict.fromkeys(("index_head_dim", "swa_head_dim", "linear_key_head_dim", "linear_value_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("linear_head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("global_head_dim", "rotary_dim", "index_topk", "state_size", "ssm_state_size"), HEAD_WIDTH),
    **dict.fromkeys(("mamba_d_state", "time_step_rank", "mamba_dt_rank", "laurel_rank"), HEAD_WIDTH),
    **dict.fromkeys(("query_pre_attn_scalar", "hidden_size_per_layer_input"), HEAD_WIDTH),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "d_rel", "rel_extent"), 16),
    **dict.fromkeys(("qk_head_dim", "mamba_d_head", "mamba_head_dim", "mamba_headdim", "gated_norm_rank"), 16),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), HEAD_WIDTH),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "attention_chunk_size", "block_size"), HEAD_WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), POSITIONS),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), POSITIONS),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "max_window_layers", "first_k_dense_replace"), 1),
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.1,
    "init_std": 0.1,
    "bos_token_id": START_TOKEN,
    "cls_token_id": START_TOKEN,
    "decoder_start_token_id": END_TOKEN,
    "eos_token_id": END_TOKEN,
    "sep_token_id": END_TOKEN,
    "pad_token_id": PAD_TOKEN,
}
"""Values for the fields of these names, in every configuration that has them."""
VOCABULARY_FIELDS = ("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input", "entity_vocab_size")


def small_config(model_type: str, vocabulary: int) -> PreTrainedConfig:
    """Return the small configuration of an architecture, for a tokenizer with that many tokens.

    Raises any error of the architecture's class for a configuration that it does not support.
    """
    return _small(CONFIG_MAPPING[model_type], vocabulary, SPECIAL.get(model_type, {}))


def _small(config_class: type[PreTrainedConfig], vocabulary: int, special: dict[str, Any]) -> PreTrainedConfig:
    """Return a small configuration of this class.

    `special` overrides values of the configuration. A dictionary under the name of a part overrides values of that
    part.
    """
    default = config_class()
    parts = {
        name: _small(type(part), vocabulary, special.get(name, {})).to_dict()
        for name in config_class.sub_configs or {}
        if isinstance(part := getattr(default, name, None), PreTrainedConfig)
    }
    known = _fields_of_numbers(default)
    values = {name: value for name, value in SMALL.items() if name in known}
    values |= dict.fromkeys(known.intersection(VOCABULARY_FIELDS), vocabulary)
    if "kv_lora_rank" in values:  # if keys are compressed, every head has its own
        values["num_key_value_heads"] = HEADS
    values |= {name: value for name, value in special.items() if name not in parts}
    return config_class(**values, **parts)


def _fields_of_numbers(config: PreTrainedConfig) -> set[str]:
    """Return the names of the fields that hold one value or None.

    Aliases of other fields and computed properties are left out.
    """
    values = {field.name: None for field in dataclasses.fields(config)} | config.to_dict()
    return {
        name
        for name, value in values.items()
        if not isinstance(value, list | tuple | dict)
        and name not in config.attribute_map
        and not isinstance(getattr(type(config), name, None), property)
    }
