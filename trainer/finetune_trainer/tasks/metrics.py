"""Metrics over all evaluation rows, from counts that are summed over the batches and then over the ranks.

torchmetrics has the same metrics, but its F1 counts every pair of a predicted and an actual class, which takes 80 GB
for 100,000 classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist


class Metric(ABC):
    """A metric that is computed from counts."""

    def __init__(self, *shape: int) -> None:
        self._counts = torch.zeros(shape, dtype=torch.int64)

    def to(self, device: torch.device) -> Metric:
        """Move the counts to this device and return the metric."""
        self._counts = self._counts.to(device)
        return self

    @abstractmethod
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch with logits (n, classes) and labels (n,).

        The class with the greatest logit is the predicted one.
        """

    def sync(self) -> None:
        """Sum the counts over all ranks. All ranks call this."""
        dist.all_reduce(self._counts)

    @abstractmethod
    def compute(self) -> float:
        """Return the metric's value; 0 before the first row."""


class Accuracy(Metric):
    """The fraction of the rows whose label is predicted correctly."""

    def __init__(self) -> None:
        super().__init__(2)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count the correct rows and all rows."""
        self._counts[0] += (logits.argmax(dim=-1) == labels).sum()
        self._counts[1] += len(labels)

    def compute(self) -> float:
        """Return the fraction, from 0 to 1."""
        right, rows = self._counts.tolist()
        return right / rows if rows else 0.0


class MacroF1(Metric):
    """The mean F1 of the classes that occur, as predicted or actual class.

    Other classes are left out, as in torchmetrics. The memory is that of three counts for each class.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(3, classes)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count for each class how often it is predicted correctly, predicted, and actual."""
        predicted = logits.argmax(dim=-1)
        one = torch.ones_like(labels)
        right, named, actual = self._counts
        right.index_add_(0, labels, (predicted == labels).to(one.dtype))
        named.index_add_(0, predicted, one)
        actual.index_add_(0, labels, one)

    def compute(self) -> float:
        """Return the mean F1, from 0 to 1.

        The F1 of a class is 2 x correct / (predicted + actual), the harmonic mean of precision and recall.
        """
        right, named, actual = self._counts.double()
        occurs = named + actual > 0
        return float((2 * right[occurs] / (named + actual)[occurs]).mean()) if occurs.any() else 0.0
