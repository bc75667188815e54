"""What differs between tasks: features of a row, a batch of rows, the loss sum, the metrics. One file per task."""

from functools import cache
from importlib import import_module

from finetune_trainer import contract
from finetune_trainer.contract import TASKS
from finetune_trainer.tasks.task import IGNORED, Batch, Settings, Task

__all__ = ["IGNORED", "Batch", "Settings", "Task", "task_of"]


@cache
def task_of(name: contract.Task) -> Task:
    """The task of that name."""
    module, _, kind = TASKS[name].implementation.partition(":")
    task: Task = getattr(import_module(f"{__name__}.{module}"), kind)()
    return task
