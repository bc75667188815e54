"""Which layers have an adapter by default, which names PEFT gets for them, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from models_table.small_config import small_config
from peft import PeftModel
from trainer import tiny

from finetune_trainer import contract
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.load import with_adapter

LORA = contract.Lora(rank=2, alpha=4.0, dropout=0.0)
TEXT = {**tiny.SHAPE, "vocab_size": tiny.VOCABULARY, "max_position_embeddings": 64}
MAMBA = transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, vocab_size=tiny.VOCABULARY)
SWIN = transformers.Swinv2Config(
    image_size=16, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, num_labels=3
)
QWEN_MOE = transformers.Qwen2MoeConfig(
    **TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8
)
JETMOE = transformers.JetMoeConfig(
    **{**TEXT, "num_attention_heads": 2, "num_key_value_heads": 2}, kv_channels=8, num_local_experts=2
)
DEEPSEEK = transformers.DeepseekV3Config(
    **TEXT, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1,
    moe_intermediate_size=8, num_key_value_heads=2,
)  # fmt: skip
TOWER = {**tiny.SHAPE, "image_size": 8, "patch_size": 4}
SIGLIP = transformers.SiglipConfig(vision_config=TOWER, text_config=tiny.SHAPE, num_labels=3)
CLIP = transformers.CLIPConfig(vision_config=TOWER, text_config={**TEXT, "eos_token_id": 2}, num_labels=3)
T5 = transformers.T5Config(
    vocab_size=tiny.VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, num_labels=3
)


def prepared(task: Any, new_tokens: tuple[int, ...] = ()) -> Any:
    return SimpleNamespace(new_parameters=(), new_tokens=new_tokens, classes=0 if task == tiny.CAUSAL_LM else 3)


def adapted(
    task: Any, config: Any, new_tokens: tuple[int, ...] = (), targets: tuple[str, ...] | None = None
) -> PeftModel:
    model = tiny.AUTO_CLASSES[task].from_config(config)
    return with_adapter(model, LORA.model_copy(update={"target_modules": targets}), prepared(task, new_tokens))


def layers(model: PeftModel) -> set[str]:
    """Return the full names of the layers with an adapter."""
    names = (name for name, _ in model.named_parameters() if "lora_A" in name)
    return {name.removeprefix("base_model.model.").partition(".lora_A")[0] for name in names}


def names_for_peft(model: PeftModel) -> set[str]:
    return set(model.peft_config["default"].target_modules)


def test_a_last_name_that_only_linear_layers_have_is_enough_for_peft() -> None:
    model = adapted(tiny.CAUSAL_LM, tiny.llama())
    assert names_for_peft(model) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(layers(model)) == 2 * 7


def test_a_layer_that_shares_its_last_name_with_another_kind_of_module_has_its_full_name() -> None:
    """Swinv2's stages and blocks are called 0 and 1, and so are the layers of its small networks for positions."""
    model = adapted(tiny.IMAGE, SWIN)
    linear = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and "classifier" not in name
    }
    assert layers(model) == linear
    assert any(name.endswith("continuous_position_bias_mlp.0") for name in linear)


def test_layers_whose_weights_a_kernel_of_mamba_takes_have_no_adapter() -> None:
    assert {name.rpartition(".")[2] for name in layers(adapted(tiny.CAUSAL_LM, MAMBA))} == {"in_proj"}


def test_a_layer_that_peft_refuses_is_named_in_one_sentence() -> None:
    with pytest.raises(InvalidError, match=r"^method\.targetModules: PEFT cannot adapt .*'out_proj' is incompatible"):
        adapted(tiny.CAUSAL_LM, MAMBA, targets=("in_proj", "out_proj"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [(QWEN_MOE, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}), (JETMOE, {"kv_proj"})],
    ids=["qwen2-moe", "jetmoe"],
)
def test_layers_that_choose_experts_have_no_adapter(config: Any, expected: set[str]) -> None:
    model = adapted(tiny.CAUSAL_LM, config)
    assert {name.rpartition(".")[2] for name in layers(model)} == expected


def test_names_that_peft_takes_for_those_of_experts_are_left_out() -> None:
    """PEFT would adapt the fused weights of all experts instead of the layers of shared experts with these names."""
    model = adapted(tiny.CAUSAL_LM, DEEPSEEK)
    assert {name.split(".")[3] for name in layers(model)} == {"self_attn"}
    assert not model.peft_config["default"].target_parameters


def test_the_output_layer_of_torchs_attention_has_no_adapter() -> None:
    """The attention module passes this layer's weights to a function, which bypasses the adapter."""
    model = adapted(tiny.IMAGE, SIGLIP)
    assert "vision_model.encoder.layers.0.self_attn.out_proj" in layers(model)
    assert "vision_model.head.attention.out_proj" not in layers(model)


@pytest.mark.parametrize(
    ("architecture", "layer", "has_adapter"),
    [("deepseek_v4", "o_a_proj", False), ("deepseek_v4", "o_b_proj", True), ("falcon", "query_key_value", True)],
    ids=["computes in groups", "linear", "linear, with a forward of its own"],
)
def test_a_class_derived_from_a_linear_layer_has_an_adapter_if_it_computes_the_same(
    architecture: str, layer: str, has_adapter: bool
) -> None:
    model = adapted(tiny.CAUSAL_LM, small_config(architecture, tiny.VOCABULARY))
    assert (layer in {name.rpartition(".")[2] for name in layers(model)}) == has_adapter


@pytest.mark.parametrize("targets", [None, ("up_proj",)], ids=["by default", "by name"])
def test_a_layer_whose_adapter_peft_does_not_find_again_has_none(targets: tuple[str, ...] | None) -> None:
    """PEFT would load the saved adapter of Laguna's shared experts under names that no layer has, without an error."""
    model = adapted(tiny.CAUSAL_LM, small_config("laguna", tiny.VOCABULARY), targets=targets)
    assert "model.layers.0.mlp.up_proj" in layers(model)
    assert not [name for name in layers(model) if "shared_experts" in name]


def test_a_model_that_knows_no_output_layer_is_adapted() -> None:
    assert {name.rpartition(".")[2] for name in layers(adapted(tiny.IMAGE, CLIP))} >= {"q_proj", "fc1"}


def test_a_chosen_name_is_the_end_of_the_names_of_layers() -> None:
    model = adapted(tiny.SEQUENCE, tiny.bert(), targets=("output.dense",))
    assert layers(model) == {
        f"bert.encoder.layer.{layer}.{part}output.dense" for layer in range(2) for part in ("", "attention.")
    }


# ---- new tokens -----------------------------------------------------------------------------------------------------


def rows_of(model: PeftModel) -> dict[str, list[int]] | None:
    rows: dict[str, list[int]] | None = model.peft_config["default"].trainable_token_indices
    return rows


def test_the_rows_of_tied_embeddings_are_trained_once() -> None:
    model = adapted(tiny.CAUSAL_LM, tiny.gpt2(), new_tokens=(60, 64))
    assert rows_of(model) == {"transformer.wte": [60, 64]}
    table, output = (layer.token_adapter for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    assert output.trainable_tokens_delta is table.trainable_tokens_delta


def test_the_rows_of_untied_embeddings_are_trained_apart() -> None:
    model = adapted(tiny.CAUSAL_LM, tiny.llama(), new_tokens=(60, 64))
    assert rows_of(model) == {"model.embed_tokens": [60, 64], "lm_head": [60, 64]}


def test_an_output_layer_with_a_bias_is_trained_whole() -> None:
    config = transformers.PhiConfig(**TEXT, tie_word_embeddings=False)
    model = adapted(tiny.CAUSAL_LM, config, new_tokens=(60, 64))
    assert rows_of(model) == {"model.embed_tokens": [60, 64]}
    assert model.peft_config["default"].modules_to_save == ["lm_head"]


@pytest.mark.parametrize(
    ("task", "config"),
    [(tiny.CAUSAL_LM, tiny.bert(is_decoder=True)), (tiny.SEQUENCE, T5)],
    ids=["tied output with a bias", "encoder and decoder of a classifier"],
)
def test_embeddings_that_no_adapter_can_train_are_refused(task: Any, config: Any) -> None:
    with pytest.raises(InvalidError, match=r"^method\.type: the tokenizer has tokens .* not learned, .*; use Full$"):
        adapted(task, config, new_tokens=(60, 64))
    adapted(task, config)
