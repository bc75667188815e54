"""What differs between tasks: features of a row, a batch of rows, the loss sum, the metrics. One file per task."""

from finetune_trainer import contract
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.image_classification import ImageClassification
from finetune_trainer.tasks.sequence_classification import SequenceClassification
from finetune_trainer.tasks.task import IGNORED, Batch, Settings, Task

__all__ = ["IGNORED", "Batch", "Settings", "Task", "task_of"]

_TASKS: dict[contract.Task, type[Task]] = {
    "CausalLM": CausalLM,
    "SequenceClassification": SequenceClassification,
    "ImageClassification": ImageClassification,
}


def task_of(name: contract.Task) -> Task:
    """The task of that name."""
    return _TASKS[name]()
