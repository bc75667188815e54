"""What a task must answer for the loop, which knows no task."""

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
"""Label of what counts for neither loss nor metric."""


class Batch(NamedTuple):
    """Rows for one forward pass."""

    features: dict[str, torch.Tensor]
    """Arguments of the model, (rows, ...)."""
    labels: torch.Tensor
    """(rows,) classes, or (rows, tokens) token ids; IGNORED where nothing is to be learned."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on a device; floating-point features in this precision."""
        features = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)
            for name, tensor in self.features.items()
        }
        return Batch(features, self.labels.to(device, non_blocking=True))


@dataclass(frozen=True)
class Settings:
    """What a task needs to know of the run besides the rows."""

    processor: Any
    """Tokenizer or image processor."""
    model: PreTrainedConfig
    sequence_length: int
    """Tokens at which a row is cut."""


class Task(ABC):
    """One kind of model and what it learns."""

    model_types: frozenset[str]
    """Names of the architectures, as in config.json, that can do the task."""
    auto_class: Any
    """The class of transformers that loads its models."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """For every call of the model, besides a batch's features."""

    @abstractmethod
    def load_processor(self, folder: Path, remote_code: bool) -> Any:
        """Tokenizer or image processor of a model folder; `remote_code`: whether it may run code that lies there.
        Raises OSError or ValueError when it has none."""

    def can_learn(self, model: PreTrainedModel) -> bool:
        """Whether the start model, on the CPU and in evaluation mode, can do the task. It is tried, if need be."""
        return True

    def adapt_processor(  # noqa: B027  # optional
        self, processor: Any, shape: Callable[[], PreTrainedModel | None]
    ) -> None:
        """Change the processor to what the task needs, before rows are encoded. `shape` builds the model without values
        in its weights, or gives None where it cannot be built without them."""

    @abstractmethod
    def adapt(self, model: PreTrainedModel, processor: Any, columns: Collection[str]) -> tuple[int, ...]:
        """Change the model to what the task and the adapted processor need, before the start checkpoint is written.
        `columns` are those of the rows. Returns the ids of tokens whose embeddings no training has touched. Raises
        InvalidError."""

    @abstractmethod
    def encode(self, rows: datasets.Dataset, settings: Settings, notes: list[str] | None = None) -> datasets.Dataset:
        """The rows as training reads them, in the same order. Besides what `collate` needs they have `count`, how many
        labels count in the loss, `length` in tokens (0 for images), and `cut`, whether the row was longer than that.
        Sentences that the user should read about the rows are added to `notes`. Raises InvalidError."""

    def effective_length(self, settings: Settings) -> int | None:
        """Tokens at which rows are cut; None for pictures."""
        return None

    @abstractmethod
    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """A batch of encoded rows (columns of equal length); the labels of a row of weight 0 are IGNORED."""

    @abstractmethod
    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes) and labels (n,) of what counts, and nothing else."""

    def loss_sum(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats of `aligned` logits and labels, summed in fp32; 0, with zero gradients, for none."""
        return cross_entropy(logits.float(), labels, reduction="sum")

    def metric(self, name: contract.Metric, classes: int) -> Metric | None:
        """A streaming metric over `aligned` logits and labels; None if it follows from the mean loss."""
        if name == "perplexity":
            return None
        return Accuracy() if name == "accuracy" else MacroF1(classes)


class Classification(Task):
    """One label for each row."""

    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows whose label counts."""
        counts = labels != IGNORED
        return logits[counts], labels[counts]

    @staticmethod
    def labels(labels: Sequence[int], weights: Sequence[int]) -> torch.Tensor:
        """(rows,) classes, IGNORED at weight 0."""
        return torch.tensor([label if weight else IGNORED for label, weight in zip(labels, weights, strict=True)])
