"""Computes metrics over the evaluation rows. They are accumulated batch by batch, and logits are never gathered."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import nn

from finetune_trainer.contract import RunConfig
from finetune_trainer.data.sampler import MicroBatch, evaluation_batches
from finetune_trainer.errors import DivergedError, InvalidError, TrainingError
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.model.start_model import DTYPES
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks import Batch, Task, task_of
from finetune_trainer.tasks.metrics import Metric

BATCHES_BETWEEN_POLLS = 10
"""The number of batches between checks whether a rank was asked to stop."""
LARGEST_LOSS = math.log(sys.float_info.max)
"""The loss, in nats, above which the perplexity is infinite."""


def evaluate(
    model: nn.Module, prepared: Prepared, config: RunConfig, ranks: Ranks, alone: bool = False
) -> dict[str, float]:
    """Return the mean loss (in nats) and the run's metrics.

    All ranks take part and get the same values; or one rank evaluates `alone`, while the others wait. Raises
    StoppedError if a rank was asked to stop, and DivergedError if the loss is not finite.
    """
    task, device = task_of(config.task), ranks.device
    if not alone:
        ranks.share_buffers(model)
    loss_sum, count = torch.zeros((), dtype=torch.float64, device=device), 0
    metrics: dict[str, Metric] = {}
    for name in config.metrics:
        if (metric := task.metric(name, prepared.classes)) is not None:
            metrics[name] = metric.to(device)
    world, rank = (1, 0) if alone else (ranks.world, ranks.rank)
    batches = evaluation_batches(len(prepared.evaluation), config.training.micro_batch_size, world, rank)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for number, micro_batch in enumerate(batches):
            if number % BATCHES_BETWEEN_POLLS == 0:
                ranks.stop_together(alone)
            batch = load_batch(prepared.evaluation, micro_batch, task, prepared, device, config)
            logits, labels = task.aligned(model(**batch.features, **task.arguments).logits, batch.labels)
            if len(labels):
                loss_sum += task.loss_sum(logits, labels)
                count += len(labels)
                for metric in metrics.values():
                    metric.update(logits, labels)
            ranks.activity.tick()
    model.train(was_training)
    total, counted = float(loss_sum), float(count)
    if world > 1:
        total, counted = ranks.sum(total, counted)
        for metric in metrics.values():
            metric.sync()
    return _values(total / counted if counted else math.nan, metrics, config)


def load_batch(
    rows: Any, micro_batch: MicroBatch, task: Task, prepared: Prepared, device: torch.device, config: RunConfig
) -> Batch:
    """Load the rows of a micro-batch onto the device, with floating-point features in the run's precision.

    Raises InvalidError, which names the rows, if they cannot form a batch.
    """
    columns = rows[list(micro_batch.rows)]
    try:
        batch = task.collate(columns, micro_batch.weights, prepared.settings)
    except (TrainingError, OSError, MemoryError):
        raise
    except Exception as error:  # A processor may raise anything for a row that is unlike the others.
        raise InvalidError(
            f"dataset.columns: no batch can be made of the rows {', '.join(columns['id'][:8])} "
            f"({type(error).__name__}); correct or remove the one that is unlike the others"
        ) from error
    return batch.to(device, DTYPES[config.training.precision])


def _values(mean: float, metrics: dict[str, Metric], config: RunConfig) -> dict[str, float]:
    if not mean < LARGEST_LOSS:
        raise DivergedError(
            "the loss on the evaluation rows is not finite; lower training.learningRate or check the rows"
        )
    values = {"loss": mean}
    for name in config.metrics:
        values[name] = math.exp(mean) if name == "perplexity" else metrics[name].compute()
    return values
