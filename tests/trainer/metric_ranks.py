"""What the ranks of a test world count, each in rows of its own."""

from __future__ import annotations

import torch

from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks.metrics import Accuracy, MacroF1, Metric


def batches(classes: int, occurring: int, seed: int, number: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random logits and labels; only the first classes occur, and some of them as predictions or as labels alone."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        logits = torch.randn(16, classes, generator=generator)
        logits[:, occurring:] = -100.0
        made.append((logits, torch.randint(0, max(1, occurring - 1), (16,), generator=generator)))
    return made


def measured(metric: Metric, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    for logits, labels in rows:
        metric.update(logits, labels)
    return metric.compute()


def synced(ranks: Ranks, seeds: tuple[int, ...]) -> tuple[float, float]:
    """What this rank computes after it has counted its own rows alone."""
    f1, accuracy = MacroF1(7), Accuracy()
    for metric in (f1, accuracy):
        measured(metric, batches(7, 5, seeds[ranks.rank]))
        metric.sync()
    return f1.compute(), accuracy.compute()
