"""Accuracy and macro F1 equal those of torchmetrics, and their memory is linear in the number of classes."""

from __future__ import annotations

import time

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from trainer.metric_ranks import batches, measured, synced
from trainer.worlds import Worlds

from finetune_trainer.tasks.metrics import Accuracy, MacroF1, Metric

SECONDS_FOR_A_BATCH = 0.5
"""The CPU time limit for 8 rows and 100,000 classes."""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("classes", "occurring"), [(2, 2), (3, 3), (7, 4), (40, 40), (1000, 30)])
def test_random_rows_have_the_value_of_torchmetrics(classes: int, occurring: int, seed: int) -> None:
    rows = batches(classes, occurring, seed)
    logits, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
    f1 = MulticlassF1Score(classes, average="macro")(logits, labels)
    assert measured(MacroF1(classes), rows) == pytest.approx(float(f1), abs=1e-6)
    accuracy = MulticlassAccuracy(classes, average="micro")(logits, labels)
    assert measured(Accuracy(), rows) == pytest.approx(float(accuracy), abs=1e-6)


def test_only_classes_that_occur_count_in_the_mean() -> None:
    """Class 0 is predicted correctly, class 1 is predicted instead of class 2, and class 3 never occurs."""
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1]), 4).float()
    assert measured(MacroF1(4), [(logits, torch.tensor([0, 2]))]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("metric", [Accuracy(), MacroF1(3)], ids=lambda metric: type(metric).__name__)
def test_without_rows_the_value_is_zero(metric: Metric) -> None:
    assert metric.compute() == 0.0


def test_a_hundred_thousand_classes_take_a_fraction_of_a_second() -> None:
    metric = MacroF1(100_000)
    logits, labels = torch.zeros(8, 100_000), torch.arange(8) * 10_000
    logits[torch.arange(8), labels] = 1.0
    began = time.process_time()
    metric.update(logits, labels)
    assert metric.compute() == 1.0
    assert time.process_time() - began < SECONDS_FOR_A_BATCH


def test_ranks_add_up_their_counts(worlds: Worlds) -> None:
    together = batches(7, 5, 1) + batches(7, 5, 2)
    expected = measured(MacroF1(7), together), measured(Accuracy(), together)
    assert worlds(2).run(synced, (1, 2)) == [pytest.approx(expected)] * 2
