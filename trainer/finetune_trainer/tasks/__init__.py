"""The differences between the tasks: encoding of rows, batches, loss and metrics, with one file for each task.

The training loop does not belong here and does not depend on the task.
"""

from functools import cache
from importlib import import_module

from finetune_trainer import contract
from finetune_trainer.contract import TASKS
from finetune_trainer.tasks.task import IGNORED, Batch, Settings, Task

__all__ = ["IGNORED", "Batch", "Settings", "Task", "task_of"]


@cache
def task_of(name: contract.Task) -> Task:
    """Return the implementation of the task with this name."""
    module, _, kind = TASKS[name].implementation.partition(":")
    task: Task = getattr(import_module(f"{__name__}.{module}"), kind)()
    return task
