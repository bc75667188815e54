"""The tasks: one entry for each, read by the API, its rules, the operator, the trainer and the model card. No torch.

A new task needs its name in `run_config.Task`, an entry here, a file in `finetune_trainer/tasks`, documents and tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from finetune_trainer.contract.run_config import Metric, Task


@dataclass(frozen=True)
class TaskEntry:
    """What everybody knows of a task."""

    implementation: str
    """Where its loss, features and batches are: a module of `finetune_trainer.tasks`, and a class in it."""
    reads: Literal["text", "pictures"]
    columns: tuple[tuple[str, ...], ...]
    """The combinations of columns that it can read, the preferred one first. A dataset names exactly one of them."""
    columns_needed: str
    """The same in words, after 'needs'."""
    columns_example: str
    """Of a manifest's `columns`."""
    metrics: tuple[Metric, ...]
    """What it can be measured by; all of them if the user names none. The first one tells which model is best."""
    auto_class: str
    """The class of transformers that loads its models."""
    processor_class: str
    """The class of transformers that loads its tokenizer or image processor."""
    pipeline: str
    """Its tag on a model hub."""


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
