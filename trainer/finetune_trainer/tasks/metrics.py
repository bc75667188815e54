"""Figures over all evaluation rows, from counts that are added up batch by batch and then over the ranks.

torchmetrics has the same figures, but its F1 counts every pair of predicted and actual class: 80 GB for 100,000
classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist


class Metric(ABC):
    """One figure."""

    def __init__(self, *shape: int) -> None:
        self._counts = torch.zeros(shape, dtype=torch.int64)

    def to(self, device: torch.device) -> Metric:
        """Count on this device from now on."""
        self._counts = self._counts.to(device)
        return self

    @abstractmethod
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: logits (n, classes) and labels (n,). The class with the greatest logit is predicted."""

    def sync(self) -> None:
        """Add up the counts of all ranks. All ranks call this."""
        dist.all_reduce(self._counts)

    @abstractmethod
    def compute(self) -> float:
        """The figure; 0 before the first row."""


class Accuracy(Metric):
    """The part of the rows whose label is predicted."""

    def __init__(self) -> None:
        super().__init__(2)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count rows that are right, and all."""
        self._counts[0] += (logits.argmax(dim=-1) == labels).sum()
        self._counts[1] += len(labels)

    def compute(self) -> float:
        """Between 0 and 1."""
        right, rows = self._counts.tolist()
        return right / rows if rows else 0.0


class MacroF1(Metric):
    """The mean F1 of the classes that occur, predicted or actual; classes that never do are left out, as torchmetrics
    leaves them out. The memory is that of three counts for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__(3, classes)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count for each class how often it is right, predicted and actual."""
        predicted = logits.argmax(dim=-1)
        one = torch.ones_like(labels)
        right, named, actual = self._counts
        right.index_add_(0, labels, (predicted == labels).to(one.dtype))
        named.index_add_(0, predicted, one)
        actual.index_add_(0, labels, one)

    def compute(self) -> float:
        """Between 0 and 1. A class's F1 is 2 x right / (predicted + actual), the harmonic mean of precision and
        recall."""
        right, named, actual = self._counts.double()
        occurs = named + actual > 0
        return float((2 * right[occurs] / (named + actual)[occurs]).mean()) if occurs.any() else 0.0
