"""Computes the model's answer to eight fixed rows, which shows whether a resumed model is the one that was saved.

Every rank passes the same rows through the model in evaluation mode. The answer therefore depends neither on the number
of ranks nor on the stage, and all ranks take part in the gathering under ZeRO-3.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from finetune_trainer.checkpoint.files import Probe
from finetune_trainer.contract import RunConfig
from finetune_trainer.data.sampler import evaluation_batches
from finetune_trainer.model.evaluate import load_batch
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks import task_of

PROBE_ROWS = 8
PROBE_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""The greatest relative difference of the loss, by the run's precision."""


def probe(engine: Any, prepared: Prepared, config: RunConfig, ranks: Ranks) -> Probe | None:
    """Return the summed loss on the first evaluation rows, or None if it is not finite. All ranks call this."""
    ranks.share_buffers(engine.module)
    task = task_of(config.task)
    loss_sum, count = torch.zeros((), dtype=torch.float64, device=ranks.device), 0
    was_training = engine.training
    engine.eval()
    with torch.no_grad():
        rows = min(PROBE_ROWS, len(prepared.evaluation))
        for micro_batch in evaluation_batches(rows, config.training.micro_batch_size, world=1, rank=0):
            batch = load_batch(prepared.evaluation, micro_batch, task, prepared, ranks.device, config)
            logits, labels = task.aligned(engine(**batch.features, **task.arguments).logits, batch.labels)
            loss_sum += task.loss_sum(logits, labels)
            count += len(labels)
            ranks.activity.tick()
    engine.train(was_training)
    # All ranks use the same total, because they must agree whether there is something to save.
    (total,) = ranks.sum(float(loss_sum))
    return Probe(loss_sum=total / ranks.world, count=count) if math.isfinite(total) else None


def differs(now: Probe, then: Probe, tolerance: float) -> bool:
    """Return whether the two answers cannot come from the same model."""
    return now.count != then.count or abs(now.loss_sum - then.loss_sum) > tolerance * abs(then.loss_sum)
