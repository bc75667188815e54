"""Which rows of the embeddings new tokens get, and the initial values of these rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from trainer import tiny
from transformers import PreTrainedTokenizerFast

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.vocabulary import make_room

PADDED = tiny.VOCABULARY + 7
"""The number of embedding rows of a vocabulary that the model's authors have padded."""
OLD = slice(0, tiny.VOCABULARY)


def model_of(task: Any, config: Any) -> Any:
    torch.manual_seed(3)
    model = tiny.AUTO_CLASSES[task].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def tokenizer_with(*added: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny.tokenizer(pad=True)
    tokenizer.add_tokens(list(added))
    return tokenizer


PHI = transformers.PhiConfig(**tiny.SHAPE, vocab_size=tiny.VOCABULARY, tie_word_embeddings=False)
BART = transformers.BartConfig(
    vocab_size=tiny.VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
    eos_token_id=2, pad_token_id=1, num_labels=3,
)  # fmt: skip
NARROW = {**tiny.SHAPE, "vocab_size": tiny.VOCABULARY, "embedding_size": 8, "pad_token_id": 1}
MODELS = {
    "untied": (tiny.CAUSAL_LM, tiny.llama()),
    "tied": (tiny.CAUSAL_LM, tiny.gpt2()),
    "output with a bias": (tiny.CAUSAL_LM, PHI),
    "tied output with a bias": (tiny.CAUSAL_LM, tiny.bert(is_decoder=True)),
    "encoder and decoder": (tiny.SEQUENCE, BART),
    "narrow embeddings": (tiny.SEQUENCE, transformers.ElectraConfig(**NARROW)),
    "narrow embeddings of one layer": (tiny.SEQUENCE, transformers.AlbertConfig(**NARROW)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_new_rows_begin_as_the_mean_of_all_others(kind: str) -> None:
    model, tokenizer = model_of(*MODELS[kind]), tokenizer_with("<|ask|>", "<|zone|>")
    before = model.get_input_embeddings().weight.detach().clone()
    new = make_room(model, tokenizer)
    assert new == (tiny.VOCABULARY, tiny.VOCABULARY + 1)
    tables = [model.get_input_embeddings().weight]
    if output := model.get_output_embeddings():
        assert (output.weight is tables[0]) == kind.startswith("tied")
        tables += [output.weight, *([] if output.bias is None else [output.bias])]
    assert torch.equal(tables[0][OLD], before)
    for table in tables:
        assert len(table) == len(tokenizer)
        for row in new:
            torch.testing.assert_close(table[row], table[OLD].mean(0))
    ids = torch.tensor([[7, *new, 2]])
    assert model(input_ids=ids).logits.isfinite().all()


def test_the_mean_is_taken_in_fp32() -> None:
    model = model_of(tiny.CAUSAL_LM, tiny.llama())
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = 1.0
        model.get_input_embeddings().weight[0] = 1000.0
    model = model.bfloat16()
    (new,) = make_room(model, tokenizer_with("<|ask|>"))
    # bf16 has no number between 1000 and 1004, so a sum in bf16 would stay at 1000.
    expected = torch.tensor((1000 + tiny.VOCABULARY - 1) / tiny.VOCABULARY, dtype=torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight[new], expected.expand(16))


def test_embeddings_that_are_larger_than_the_tokenizer_stay_as_they_are() -> None:
    model = model_of(tiny.CAUSAL_LM, tiny.llama(vocabulary=PADDED))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert make_room(model, tiny.tokenizer(pad=True)) == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("padding", [0.0, 0.01, 5.0], ids=["zero", "short", "long"])
def test_a_token_on_a_padding_row_is_new(padding: float) -> None:
    model = model_of(tiny.CAUSAL_LM, tiny.llama(vocabulary=PADDED))
    with torch.no_grad():
        rows = model.get_input_embeddings().weight[tiny.VOCABULARY :]
        rows[:] = padding * torch.nn.functional.normalize(torch.randn_like(rows))
    assert make_room(model, tokenizer_with("<|ask|>")) == (tiny.VOCABULARY,)
    for table in (model.get_input_embeddings().weight, model.lm_head.weight):
        torch.testing.assert_close(table[tiny.VOCABULARY], table[OLD].mean(0))
        assert len(table) == PADDED


def test_a_token_whose_row_looks_trained_keeps_it() -> None:
    model = model_of(tiny.CAUSAL_LM, tiny.llama(vocabulary=PADDED))
    before = model.get_input_embeddings().weight.detach().clone()
    assert make_room(model, tokenizer_with("<|ask|>")) == ()
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_token_whose_id_leaves_a_gap_has_a_row() -> None:
    vocabulary = {**tiny.tokenizer(pad=True).get_vocab(), "far": PADDED}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<unk>")))
    model = model_of(tiny.CAUSAL_LM, tiny.llama())
    assert make_room(model, tokenizer) == (PADDED,)
    assert len(model.get_input_embeddings().weight) == PADDED + 1


def test_a_token_that_only_fills_up_batches_has_a_row_and_is_not_new() -> None:
    tokenizer, model = tiny.tokenizer(pad=False), model_of(tiny.CAUSAL_LM, tiny.llama())
    tokenizer.add_special_tokens({"pad_token": AddedToken("<|pad|>", special=True)})
    assert make_room(model, tokenizer) == ()
    assert len(model.get_input_embeddings().weight) == tiny.VOCABULARY + 1


def test_embeddings_that_cannot_be_enlarged_are_named() -> None:
    config = transformers.IBertConfig(**tiny.SHAPE, vocab_size=tiny.VOCABULARY, max_position_embeddings=64)
    with pytest.raises(InvalidError, match=r"model\.uri: .* needs 66 rows .* of type ibert cannot be enlarged; remove"):
        make_room(model_of(tiny.SEQUENCE, config), tokenizer_with("<|ask|>"))


def test_a_model_that_reads_characters_needs_no_rows() -> None:
    config = transformers.CanineConfig(**tiny.SHAPE, max_position_embeddings=64, num_hash_buckets=64)
    assert make_room(model_of(tiny.SEQUENCE, config), tokenizer_with("<|ask|>")) == ()
