"""Runs one forward pass of a few rows on the CPU, before any accelerator is used.

Mismatches (such as an image processor that does not fit the model, or a special token in a text for an encoder-decoder)
fail here with one sentence, instead of on every rank after the model was distributed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.contract import TASKS, RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.refusal import first_line
from finetune_trainer.tasks import Batch, Settings, Task, task_of

ROWS = 6
"""The greatest number of rows that are tried."""
LARGE = 300_000_000
"""The number of parameters above which two layers are tried first, since all layers would take minutes on a CPU."""
LAYERS_OF_LARGE = 2
NEEDS_ACCELERATOR = ("not implemented for", "triton", "cuda", "expected all tensors to be on")
"""Parts, in lower case, of messages about an operation that does not exist on a CPU."""


def try_rows(config: RunConfig, rows: datasets.Dataset, model: PreTrainedModel, settings: Settings) -> None:
    """Make a batch of representative rows and run the start model on it. The model is on the CPU.

    Raises InvalidError if the processor cannot make the batch, or if the model cannot read it.
    """
    task = task_of(config.task)
    chosen = telling_rows(rows)
    those = f"{', '.join(rows[chosen]['id'][:3])} and others"
    try:
        batch = task.collate(rows[chosen], [1] * len(chosen), settings)
    except InvalidError:
        raise
    except Exception as error:
        processor = "image processor" if TASKS[config.task].reads == "pictures" else "tokenizer"
        raise InvalidError(
            f"model.uri: the {processor} of {config.model.uri} cannot make one batch of {those} ({_named(error)}); "
            "correct it or choose another model"
        ) from None
    failure = _failure(task, model, batch)
    if failure is not None and not _only_lacks_accelerator(failure):
        shapes = ", ".join(f"{name} {tuple(feature.shape)}" for name, feature in batch.features.items())
        raise InvalidError(
            f"model.uri: {config.model.uri}, of type {settings.model.model_type}, cannot read what is made of {those} "
            f"({_named(failure)}; it was given {shapes}); correct its processor or choose another model"
        )


def telling_rows(rows: datasets.Dataset) -> list[int]:
    """Return the indices of the rows that are most likely to reveal a mismatch.

    They are the shortest and the longest row in tokens, or the smallest and the largest image file, and some between
    them.
    """
    sizes = np.asarray(rows["length"])
    if "image" in rows.column_names:
        # The images are not loaded, because all of them would not fit into memory.
        stored = pc.struct_field(rows.with_format("arrow")[:]["image"], "bytes")
        sizes = pc.binary_length(stored).to_numpy()
    order = np.argsort(sizes, kind="stable")
    between = np.linspace(0, len(order) - 1, num=min(ROWS, len(order))).round().astype(int)
    return sorted({int(order[place]) for place in between})


def _failure(task: Task, model: PreTrainedModel, batch: Batch) -> Exception | None:
    """Return the exception that the model raises, or None if it runs.

    A large model is first tried with a few layers; if they fail, the whole model decides.
    """
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        with _few_layers(model):
            if _raised(task, model, batch) is None:
                return None
    return _raised(task, model, batch)


@torch.no_grad()
def _raised(task: Task, model: PreTrainedModel, batch: Batch) -> Exception | None:
    features = batch.to(model.device, model.dtype).features
    was_training = model.training
    model.eval()
    try:
        logits = model(**features, **task.arguments).logits
        task.loss_sum(*task.aligned(logits, batch.labels))
    except Exception as error:
        return error
    finally:
        model.train(was_training)
    return None


@contextmanager
def _few_layers(model: nn.Module) -> Iterator[None]:
    """Reduce the model to the first layers of each stack, and restore it afterwards."""
    stacks: list[tuple[nn.Module, str, nn.ModuleList]] = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) > LAYERS_OF_LARGE
    ]
    for parent, name, stack in stacks:
        setattr(parent, name, stack[:LAYERS_OF_LARGE])
    try:
        yield
    finally:
        for parent, name, stack in stacks:
            setattr(parent, name, stack)


def _only_lacks_accelerator(error: Exception) -> bool:
    return any(part in str(error).lower() for part in NEEDS_ACCELERATOR)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
