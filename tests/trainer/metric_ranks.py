"""How the ranks of a test world measure metrics, each on its own rows."""

from __future__ import annotations

import torch

from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks.metrics import Accuracy, MacroF1, Metric


def batches(classes: int, occurring: int, seed: int, number: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return random logits and labels.

    Only the first classes occur. The last of these occurs only as a prediction, never as a label.
    """
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
    """Return the values of this rank after it has counted only its own rows and synced."""
    f1, accuracy = MacroF1(7), Accuracy()
    for metric in (f1, accuracy):
        measured(metric, batches(7, 5, seeds[ranks.rank]))
        metric.sync()
    return f1.compute(), accuracy.compute()
