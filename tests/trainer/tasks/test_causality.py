"""Which models may learn the next token. This is measured on the model, not read from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer import tiny
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MambaConfig, XLNetConfig

from finetune_trainer.errors import InvalidError
from finetune_trainer.model.prepare import prepare
from finetune_trainer.tasks.causality import reads_left_to_right

NEOX = GPTNeoXConfig(**tiny.SHAPE, vocab_size=tiny.VOCABULARY, max_position_embeddings=64)
MAMBA = MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=tiny.VOCABULARY)
XLNET = XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=32, vocab_size=tiny.VOCABULARY)


def model_of(config: Any, dtype: torch.dtype) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)  # as large as trained weights, so that they affect the outputs
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "is_causal"),
    [
        (tiny.llama(), True),
        (tiny.gpt2(), True),
        (NEOX, True),
        (MAMBA, True),
        (tiny.bert(is_decoder=True), True),
        (tiny.bert(), False),
        (XLNET, False),
    ],
    ids=["llama", "gpt2", "gpt-neox", "mamba", "bert as decoder", "bert", "xlnet"],
)
def test_a_model_that_sees_later_words_is_found(config: Any, is_causal: bool, dtype: torch.dtype) -> None:
    assert reads_left_to_right(model_of(config, dtype)) == is_causal


def test_a_model_that_cannot_be_tried_is_judged_by_its_configuration() -> None:
    for is_decoder in (True, False):
        model = model_of(tiny.bert(is_decoder=is_decoder), torch.float32)
        model.forward = None
        assert reads_left_to_right(model) == is_decoder


def test_a_weight_that_is_not_finite_does_not_hide_how_a_model_reads() -> None:
    """A model is not refused for values that are not finite; the rows with them are named during training."""
    model = model_of(tiny.llama(), torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[3:40] = float("nan")
    assert reads_left_to_right(model)


def prepared(folder: Path, config: Any) -> None:
    base = tiny.save_model(folder / "model", tiny.CAUSAL_LM, config)
    rows, evaluation = (tiny.make_rows(folder / name, tiny.CAUSAL_LM, 8) for name in ("train", "evaluation"))
    prepare(tiny.run_config(tiny.CAUSAL_LM, base, rows, evaluation), tiny.paths_in(folder))


def test_gpt_neox_is_prepared(tmp_path: Path) -> None:
    prepared(tmp_path, NEOX)


def test_a_model_that_reads_both_ways_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"task: CausalLM does not fit model.uri .*, which is of type xlnet; choose"):
        prepared(tmp_path, XLNET)
