"""An evaluation never hides that a model has diverged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from trainer import tiny

from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import DivergedError
from finetune_trainer.model.evaluate import evaluate
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.ranks.distributed import Ranks


class Fixed(torch.nn.Module):
    """A model that returns `value` as a logit for the first row that it gets, and zeros for all others."""

    def __init__(self, value: float, vocabulary: int) -> None:
        super().__init__()
        self._values = [value]
        self._vocabulary = vocabulary

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, self._vocabulary)
        if self._values:
            logits[0, :, 0] = self._values.pop()
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Prepared]:
    folder = tmp_path_factory.mktemp("run")
    base = tiny.save_model(folder / "model", tiny.CAUSAL_LM, tiny.llama())
    evaluation = tiny.prompts(folder / "evaluation.jsonl", 6, seed=4)
    paths = tiny.paths_in(folder)
    config = tiny.run_config(tiny.CAUSAL_LM, base, tiny.prompts(folder / "rows.jsonl", 6), evaluation)
    prepare(config, paths)
    return config, Prepared.load(config, paths)


def alone() -> Ranks:
    return Ranks(dist.HashStore(), rank=0, world=1, scratch=Path(), device=torch.device("cpu"))


def test_rows_of_equal_chances_have_the_perplexity_of_the_vocabulary(run: tuple[RunConfig, Prepared]) -> None:
    config, prepared = run
    metrics = evaluate(Fixed(0.0, tiny.VOCABULARY), prepared, config, alone())
    assert metrics["perplexity"] == pytest.approx(tiny.VOCABULARY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9], ids=["not a number", "infinite", "beyond exp"])
def test_one_bad_row_among_good_ones_is_a_divergence(value: float, run: tuple[RunConfig, Prepared]) -> None:
    config, prepared = run
    with pytest.raises(DivergedError, match="not finite"):
        evaluate(Fixed(value, tiny.VOCABULARY), prepared, config, alone())
