"""The interface of the tasks, which lets the training loop work without knowing the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel

from finetune_trainer import contract
from finetune_trainer.tasks.metrics import Accuracy, MacroF1, Metric

IGNORED = -100
"""The label of positions that count in neither the loss nor a metric."""


class Batch(NamedTuple):
    """The rows of one forward pass."""

    features: dict[str, torch.Tensor]
    """The arguments of the model, each of shape (rows, ...)."""
    labels: torch.Tensor
    """The classes (rows,) or token ids (rows, tokens); IGNORED where nothing is to be learned."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move the batch to a device and convert its floating-point features to this precision."""
        features = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)
            for name, tensor in self.features.items()
        }
        return Batch(features, self.labels.to(device, non_blocking=True))


@dataclass(frozen=True)
class Settings:
    """The settings of a run that a task needs besides the rows."""

    processor: Any
    """The tokenizer or image processor."""
    model: PreTrainedConfig
    sequence_length: int
    """The number of tokens at which a row is cut."""


class Task(ABC):
    """A kind of model and what it learns."""

    model_types: frozenset[str]
    """The model types, as in config.json, that can do the task."""
    auto_class: Any
    """The class of transformers that loads the task's models."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """The arguments of every call of the model besides a batch's features."""

    @abstractmethod
    def load_processor(self, folder: Path, remote_code: bool) -> Any:
        """Load the tokenizer or image processor of a model folder.

        `remote_code` is whether it may run code of that folder. Raises OSError or ValueError if the folder has none.
        """

    def can_learn(self, model: PreTrainedModel) -> bool:
        """Return whether the start model can do the task, if necessary by running it.

        The model is on the CPU and in evaluation mode.
        """
        return True

    def adapt_processor(  # noqa: B027  # optional
        self, processor: Any, shape: Callable[[], PreTrainedModel | None]
    ) -> None:
        """Change the processor as the task needs it, before rows are encoded.

        `shape` builds the model without the values of its weights, or returns None if it cannot be built so.
        """

    @abstractmethod
    def adapt(self, model: PreTrainedModel, processor: Any, columns: Collection[str]) -> tuple[int, ...]:
        """Change the model as the task and the adapted processor need it, before the start checkpoint is written.

        `columns` are those of the rows. Returns the ids of the tokens whose embeddings were never trained. Raises
        InvalidError if the model cannot be changed.
        """

    @abstractmethod
    def encode(self, rows: datasets.Dataset, settings: Settings, notes: list[str] | None = None) -> datasets.Dataset:
        """Encode the rows for the training, in the same order.

        Besides the columns that `collate` needs, the result has `count`, the number of labels that count in the loss,
        `length`, the number of tokens (0 for images), and `cut`, whether the row was longer than that. Sentences about
        the rows for the user are added to `notes`. Raises InvalidError if the rows cannot be used.
        """

    def effective_length(self, settings: Settings) -> int | None:
        """Return the number of tokens at which rows are cut, or None for images."""
        return None

    @abstractmethod
    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Make a batch of encoded rows (columns of equal length). The labels of rows of weight 0 are IGNORED."""

    @abstractmethod
    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (n, classes) and labels (n,) of only those positions that count."""

    def loss_sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy in nats of `aligned` logits and labels, summed in fp32.

        Without any labels it is 0, with zero gradients.
        """
        return cross_entropy(logits.float(), labels, reduction="sum")

    def metric(self, name: contract.Metric, classes: int) -> Metric | None:
        """Return a streaming metric over `aligned` logits and labels, or None if it follows from the mean loss."""
        if name == "perplexity":
            return None
        return Accuracy() if name == "accuracy" else MacroF1(classes)


class Classification(Task):
    """A task with one label for each row."""

    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and labels of the rows whose label counts."""
        counts = labels != IGNORED
        return logits[counts], labels[counts]

    @staticmethod
    def labels(labels: Sequence[int], weights: Sequence[int]) -> torch.Tensor:
        """Return the classes as a tensor (rows,), with IGNORED for rows of weight 0."""
        return torch.tensor([label if weight else IGNORED for label, weight in zip(labels, weights, strict=True)])
