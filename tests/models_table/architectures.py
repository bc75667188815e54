"""The architectures of the table, and a small base model for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import tiny

from finetune_trainer.contract import TASKS, Task

if TYPE_CHECKING:
    from finetune_trainer.ranks.distributed import Ranks

PARAMETERS = 3_000_000
"""The most parameters that a small model may have."""
BASE_LABELS = 2
"""The number of classes of a base model's head. The rows have other classes, so training starts with a new head."""


def architectures(task: Task) -> list[str]:
    """Return the names of all architectures that transformers has for a task, as in config.json."""
    from finetune_trainer.tasks import task_of

    return sorted(task_of(task).model_types)


def save_base_model(ranks: Ranks, task: Task, architecture: str, folder: Path) -> tuple[str, int]:
    """Save the small model with its tokenizer or image processor.

    Returns the name of its class and the number of its parameters. Raises ValueError if the model is not small, and
    any error of transformers.
    """
    import torch
    import transformers
    from models_table.processors import save_processor
    from models_table.small_config import small_config

    config = small_config(architecture, tiny.VOCABULARY)
    config.num_labels = BASE_LABELS
    auto_class: Any = getattr(transformers, TASKS[task].auto_class)
    classes = auto_class._model_mapping[type(config)]
    if isinstance(classes, tuple):  # the config.json of a saved model names its class
        config.architectures = [classes[0].__name__]
    with torch.device("meta"):
        try:
            parameters = auto_class.from_config(config).num_parameters()
        except (NotImplementedError, RuntimeError):  # the model computes with its weights while it is built
            parameters = 0
    if parameters > PARAMETERS:
        raise ValueError(f"{architecture} has {parameters} parameters, even with the small configuration")
    torch.manual_seed(5)
    model = auto_class.from_config(config)
    model.save_pretrained(folder)
    if model.config.model_type != config.model_type:  # it is a part of a larger model, which config.json must name
        config.save_pretrained(folder)
    save_processor(task, config, folder)
    return type(model).__name__, model.num_parameters()
