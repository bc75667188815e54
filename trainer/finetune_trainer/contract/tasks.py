"""The tasks, each with one entry, for the API, its rules, the operator, the trainer and the model card.

A new task needs its name in `run_config.Task`, an entry here, a file in `finetune_trainer/tasks`, documentation and
tests. This module must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from finetune_trainer.contract.run_config import Metric, Task


@dataclass(frozen=True)
class TaskEntry:
    """The properties of a task."""

    implementation: str
    """The module of `finetune_trainer.tasks`, and the class in it, with the task's loss, features and batches."""
    reads: Literal["text", "pictures"]
    columns: tuple[tuple[str, ...], ...]
    """The combinations of columns that the task can read, the preferred one first. A dataset names exactly one."""
    columns_needed: str
    """The combinations in words, to be placed after 'needs'."""
    columns_example: str
    """An example of a manifest's `columns`."""
    metrics: tuple[Metric, ...]
    """The metrics of the task; all are used if the user names none. The first one decides which model is best."""
    auto_class: str
    """The transformers class that loads the task's models."""
    processor_class: str
    """The transformers class that loads the task's tokenizer or image processor."""
    pipeline: str
    """The tag of the task on a model hub."""


TASKS: Mapping[Task, TaskEntry] = MappingProxyType(
    {
        "CausalLM": TaskEntry(
            implementation="causal_lm:CausalLM",
            reads="text",
            columns=(("messages",), ("prompt", "completion"), ("text",)),
            columns_needed="text, or messages, or prompt with completion",
            columns_example="{prompt: note, completion: summary}",
            metrics=("perplexity",),
            auto_class="AutoModelForCausalLM",
            processor_class="AutoTokenizer",
            pipeline="text-generation",
        ),
        "SequenceClassification": TaskEntry(
            implementation="sequence_classification:SequenceClassification",
            reads="text",
            columns=(("text", "label"),),
            columns_needed="text and label",
            columns_example="{text: clause, label: type}",
            metrics=("accuracy", "f1"),
            auto_class="AutoModelForSequenceClassification",
            processor_class="AutoTokenizer",
            pipeline="text-classification",
        ),
        "ImageClassification": TaskEntry(
            implementation="image_classification:ImageClassification",
            reads="pictures",
            columns=(("image", "label"),),
            columns_needed="image and label",
            columns_example="{image: image, label: label}",
            metrics=("accuracy", "f1"),
            auto_class="AutoModelForImageClassification",
            processor_class="AutoImageProcessor",
            pipeline="image-classification",
        ),
    }
)
