"""What a task must answer for the loop, which knows no task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel

from finetune_trainer import contract

if TYPE_CHECKING:
    from torchmetrics import Metric

IGNORED = -100
"""Label of what counts for neither loss nor metric."""


class Batch(NamedTuple):
    """Rows for one forward pass."""

    features: dict[str, torch.Tensor]
    """Arguments of the model, (rows, ...)."""
    labels: torch.Tensor
    """(rows,) classes, or (rows, tokens) token ids; IGNORED where nothing is to be learned."""


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

    @abstractmethod
    def drawn_batch(self, model: Any, processor: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Four inputs drawn at random, by which two copies of a model are compared."""

    @abstractmethod
    def adapt(self, model: PreTrainedModel, processor: Any) -> tuple[int, ...]:
        """Change the model and its processor to what the task needs, before the start checkpoint is written. Returns
        the ids of tokens whose embeddings no training has touched. Raises InvalidError."""

    @abstractmethod
    def encode(self, rows: datasets.Dataset, settings: Settings) -> datasets.Dataset:
        """The rows as training reads them, in the same order. Besides what `collate` needs they have `count`, how many
        labels count in the loss, and `length` in tokens (0 for images). Raises InvalidError."""

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
        from torchmetrics import classification  # a second, which language models need not wait

        if name == "accuracy":
            return classification.MulticlassAccuracy(classes, average="micro", sync_on_compute=False)
        return classification.MulticlassF1Score(classes, average="macro", sync_on_compute=False)


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
