"""The length at which texts are cut, the padding token of a model, and texts with unknown tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from trainer import tiny
from transformers import PreTrainedConfig

from finetune_trainer.tasks import Settings, task_of
from finetune_trainer.tasks.text import max_tokens, set_padding, unknown_rows

POSITIONS, ASKED = 64, 300
ENDLESS = int(1e30)
"""The maximum length that transformers reports for a tokenizer without a limit."""
ROPE = {**tiny.SHAPE, "vocab_size": tiny.VOCABULARY, "max_position_embeddings": POSITIONS, "pad_token_id": 1}
BERT = {**ROPE, "num_labels": 3}
GPT = {"vocab_size": tiny.VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
BART = {
    "vocab_size": tiny.VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": POSITIONS, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": tiny.VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    "eos_token_id": 2, "decoder_start_token_id": 1, "pad_token_id": 1, "n_positions": POSITIONS,
}  # fmt: skip
GEMMA = {
    "text_config": {**ROPE, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": 2},
    "vision_config": {**tiny.SHAPE, "num_channels": 3, "image_size": 16, "patch_size": 8},
    "mm_tokens_per_image": 4,
}
OPT = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "ffn_dim": 32,
    "num_attention_heads": 2, "max_position_embeddings": POSITIONS,
}  # fmt: skip
XLNET = {"vocab_size": tiny.VOCABULARY, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
BLOOM = {"vocab_size": tiny.VOCABULARY, "hidden_size": 16, "n_layer": 1, "n_head": 2}
MPT = {"vocab_size": tiny.VOCABULARY, "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": POSITIONS}
LONGFORMER = {**BERT, "attention_window": 8}

CASES = [
    # RoBERTa reserves the first two rows of its position embeddings for padding.
    (tiny.SEQUENCE, "Roberta", BERT, POSITIONS - 2),
    (tiny.SEQUENCE, "XLMRoberta", BERT, POSITIONS - 2),
    (tiny.SEQUENCE, "Camembert", BERT, POSITIONS - 2),
    (tiny.SEQUENCE, "Longformer", LONGFORMER, POSITIONS - 2),
    (tiny.SEQUENCE, "MPNet", BERT, POSITIONS - 2),
    (tiny.SEQUENCE, "Electra", {**BERT, "embedding_size": 8}, POSITIONS),
    (tiny.SEQUENCE, "Bart", BART, POSITIONS),
    (tiny.SEQUENCE, "T5", T5, ASKED),
    (tiny.SEQUENCE, "XLNet", XLNET, ASKED),
    (tiny.SEQUENCE, "Gemma3", GEMMA, POSITIONS),
    (tiny.CAUSAL_LM, "Gemma3", GEMMA, POSITIONS),
    (tiny.CAUSAL_LM, "GPT2", GPT, POSITIONS),
    (tiny.CAUSAL_LM, "OPT", OPT, POSITIONS),
    (tiny.CAUSAL_LM, "Bloom", BLOOM, ASKED),
    (tiny.CAUSAL_LM, "Mpt", MPT, POSITIONS),
    (tiny.CAUSAL_LM, "GPTNeoX", ROPE, POSITIONS),
    (tiny.CAUSAL_LM, "Qwen2", {**ROPE, "num_key_value_heads": 2}, POSITIONS),
    (tiny.CAUSAL_LM, "Mistral", {**ROPE, "num_key_value_heads": 2, "head_dim": 8}, POSITIONS),
]
WITH_A_TABLE = ("Roberta", "XLMRoberta", "Camembert", "Longformer", "MPNet", "Electra", "Bart", "GPT2", "OPT")


def model_of(task: Any, kind: str, arguments: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{kind}Config")(**arguments)
    return tiny.AUTO_CLASSES[task].from_config(config).eval()


def forward(model: Any, tokens: int) -> torch.Tensor:
    ids = torch.full((1, tokens), 7)
    ids[:, -1] = 2
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


@pytest.mark.parametrize(
    ("task", "kind", "arguments", "longest"), CASES, ids=[f"{kind} {task}" for task, kind, *_ in CASES]
)
def test_the_longest_row_that_is_not_cut_passes_the_model(
    task: Any, kind: str, arguments: dict[str, Any], longest: int
) -> None:
    model, tokenizer = model_of(task, kind, arguments), tiny.tokenizer(pad=True)
    assert tokenizer.model_max_length >= ENDLESS
    task_of(task).adapt_processor(tokenizer, lambda: model)
    task_of(task).adapt(model, tokenizer, ())
    assert max_tokens(Settings(tokenizer, model.config, ASKED)) == longest
    assert forward(model, longest).isfinite().all()
    if kind in WITH_A_TABLE:
        with pytest.raises((IndexError, RuntimeError)):
            forward(model, longest + 1)


@pytest.mark.parametrize(
    ("stated", "longest"),
    [
        ({"n_positions": 48}, 48),
        ({"n_ctx": 48}, 48),
        ({"max_seq_len": 48}, 48),
        ({"max_sequence_length": 48}, 48),
        ({"max_position_embeddings": -1}, ASKED),
        ({"max_position_embeddings": None}, ASKED),
        ({}, ASKED),
        ({"n_positions": 48, "relative_attention_num_buckets": 8}, ASKED),
    ],
    ids=str,
)
def test_the_number_of_positions_has_many_names(stated: dict[str, Any], longest: int) -> None:
    tokenizer: Any = SimpleNamespace(model_max_length=ENDLESS)
    assert max_tokens(Settings(tokenizer, PreTrainedConfig(**stated), ASKED)) == longest


def test_a_model_in_parts_is_told_of_the_padding_in_both_configurations() -> None:
    model, tokenizer = model_of(tiny.SEQUENCE, "Gemma3", GEMMA), tiny.tokenizer(pad=True)
    set_padding(model, tokenizer)
    assert model.config.pad_token_id == model.config.text_config.pad_token_id == tokenizer.pad_token_id
    ids = torch.tensor([[7, 8, 9], [7, tokenizer.pad_token_id, tokenizer.pad_token_id]])
    with torch.no_grad():
        both = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits
        alone = model(input_ids=ids[1:, :1]).logits
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


def test_rows_of_unknown_tokens_alone_are_counted() -> None:
    tokenizer = tiny.tokenizer(pad=True)
    unknown, known, end = tokenizer.convert_tokens_to_ids(["<unk>", "w1", "<end>"])
    rows = [[unknown], [unknown, unknown, end], [unknown, known], [known], [end], []]
    assert unknown_rows(rows, tokenizer) == 2


def test_a_tokenizer_without_unknown_tokens_knows_every_text() -> None:
    tokenizer = tiny.tokenizer(pad=True)
    tokenizer.unk_token = None
    assert unknown_rows([[0], [0, 0]], tokenizer) == 0
