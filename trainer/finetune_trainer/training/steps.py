"""Performs the optimizer steps of a run.

The loss of a step is the sum over its rows divided by the number of supervised labels in them. These numbers are stored
with the rows, so every rank knows the denominator before the step begins, and only sums are communicated: those of the
gradients and, in one small collective, of requests, loss and own time. Step number, rows, learning rate and randomness
depend on the step alone, never on DeepSpeed's counters, so a resumed run continues with the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.contract import RunConfig
from finetune_trainer.data.sampler import MicroBatch, Sampler, micro_batch_seed
from finetune_trainer.deepspeed_config import clips_itself
from finetune_trainer.errors import DivergedError
from finetune_trainer.model.engine import refusals_named
from finetune_trainer.model.evaluate import load_batch
from finetune_trainer.model.optimizer import learning_rate, optimizer_step
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.ranks.requests import Asked, Requests
from finetune_trainer.ranks.stragglers import STEPS_BETWEEN_LOOKS, OwnTime
from finetune_trainer.tasks import task_of
from finetune_trainer.training.health import MAX_SKIPPED_IN_ROW

MAX_NAMED_ROWS = 8


@dataclass(frozen=True)
class Step:
    """An optimizer step that was done or skipped."""

    number: int
    """The number of the step, counted from 1."""
    loss: float
    """The mean over the step's supervised labels, in nats; NaN if there are none or it is not finite."""
    grad_norm: float
    """The L2 norm over all trained parameters before clipping; not finite if the step was skipped."""
    learning_rate: float
    tokens: int
    """The number of tokens without padding; 0 for images."""
    samples: int
    asked: Asked
    """The requests that any rank received before the end of the step."""
    bad_rows: tuple[str, ...] = ()
    """The ids of rows that may be the cause of a skipped step; at most MAX_NAMED_ROWS.

    They are the first rows of the micro-batches whose loss was not finite, or of the step if only its gradient was not.
    """
    own_seconds: tuple[float, ...] = ()
    """The seconds of each rank's own work since the last measurement; empty except in every 20th step.

    `ranks.stragglers` measures them.
    """

    @property
    def skipped(self) -> bool:
        """Whether the step's gradients were dropped."""
        return not math.isfinite(self.grad_norm)


def sampler_of(config: RunConfig, prepared: Prepared) -> Sampler:
    """Return the sampler, which determines the order of the training rows."""
    return Sampler(
        rows=len(prepared.train),
        global_batch=config.training.global_batch_size,
        micro_batch=config.training.micro_batch_size,
        world=config.world.size,
        seed=config.training.seed,
        digest=prepared.digest,
    )


def total_steps(config: RunConfig, sampler: Sampler) -> int:
    """Return the number of optimizer steps of the run."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    assert config.training.epochs is not None, "one of epochs and max_steps is set"
    return config.training.epochs * sampler.steps_per_epoch


def steps(
    engine: Any, prepared: Prepared, config: RunConfig, ranks: Ranks, requests: Requests, done: int = 0
) -> Iterator[Step]:
    """Perform all steps of the run after the first `done`, and yield each of them."""
    training = config.training
    sampler = sampler_of(config, prepared)
    total = total_steps(config, sampler)
    counts, lengths = np.asarray(prepared.train["count"]), np.asarray(prepared.train["length"])
    own_time = OwnTime(config, ranks)
    for number in range(done, total):
        items = sampler.items(number)
        count = int(counts[items].sum())
        losses, micro_batches = _accumulate(engine, prepared, config, sampler, number, count, ranks, own_time)
        asked = requests.now()
        looked_at = own_time.of_ranks() if number % STEPS_BETWEEN_LOOKS == STEPS_BETWEEN_LOOKS - 1 else []
        stop, save, make_way, loss_sum, *own_seconds = ranks.sum(
            asked.stop, asked.save, asked.make_way, sum(losses), *looked_at
        )
        rate = learning_rate(training, number, total)
        norm = optimizer_step(engine, rate, training.max_grad_norm, clips_itself(config))
        bad_rows: tuple[str, ...] = ()
        if not math.isfinite(norm):
            bad_rows = _bad_rows(prepared, items, losses, micro_batches, math.isfinite(loss_sum), ranks)
        step = Step(
            number=number + 1,
            loss=loss_sum / count if count and math.isfinite(loss_sum) else math.nan,
            grad_norm=norm,
            learning_rate=rate,
            tokens=int(lengths[items].sum()),
            samples=len(items),
            asked=Asked(bool(stop), bool(save), bool(make_way)),
            bad_rows=bad_rows,
            own_seconds=tuple(own_seconds),
        )
        assert step.skipped or math.isfinite(loss_sum), f"step {step.number} was done with a loss of {loss_sum}"
        ranks.activity.step()
        yield step


def refuse_divergence(config: RunConfig, step: Step, skipped_in_row: int) -> None:
    """Raise DivergedError if too many steps in a row were skipped."""
    if skipped_in_row > MAX_SKIPPED_IN_ROW:
        named = ", ".join(step.bad_rows)
        raise DivergedError(
            f"training.learningRate: the loss or its gradient was not finite in {skipped_in_row} steps in a row up to "
            f"step {step.number}; lower the learning rate (now {config.training.learning_rate:g}) or check the rows, "
            f"in the last step {named}",
            rows=step.bad_rows,
        )


def _accumulate(
    engine: Any,
    prepared: Prepared,
    config: RunConfig,
    sampler: Sampler,
    number: int,
    count: int,
    ranks: Ranks,
    own_time: OwnTime,
) -> tuple[list[float], list[MicroBatch]]:
    """Run forward and backward passes over this rank's micro-batches of a step.

    Returns the sum of the loss of each micro-batch, and the micro-batches.
    """
    task = task_of(config.task)
    micro_batches = sampler.micro_batches(number, ranks.rank)
    losses = torch.zeros(len(micro_batches), dtype=torch.float64, device=ranks.device)
    for place, micro_batch in enumerate(micro_batches):
        torch.manual_seed(micro_batch_seed(config.training.seed, number, micro_batch.index))
        with own_time.loading():
            batch = load_batch(prepared.train, micro_batch, task, prepared, ranks.device, config)
        engine.set_gradient_accumulation_boundary(micro_batch is micro_batches[-1])
        # An error in the first step is the model's fault. In later steps it is not, since the model has worked before.
        with refusals_named(config, prepared) if number == 0 else nullcontext():
            with own_time.forward():
                logits = engine(**batch.features, **task.arguments).logits
                loss = task.loss_sum(*task.aligned(logits, batch.labels))
            # DeepSpeed averages over the ranks. A step without supervised labels has zero gradients.
            engine.backward(_spoilt(loss) * ranks.world / max(count, 1), scale_wrt_gas=False)
        losses[place] = loss.detach()
        ranks.activity.tick()
    return losses.tolist(), micro_batches


def _bad_rows(
    prepared: Prepared,
    items: Any,
    losses: list[float],
    micro_batches: list[MicroBatch],
    loss_is_finite: bool,
    ranks: Ranks,
) -> tuple[str, ...]:
    """Return the ids of rows that may be the cause of a skipped step; at most MAX_NAMED_ROWS.

    They are those of all ranks' micro-batches whose loss was not finite, or of the step if only its gradient was not.
    """
    if loss_is_finite:
        return tuple(prepared.train[items[:MAX_NAMED_ROWS].tolist()]["id"])
    rows = [
        row
        for loss, micro_batch in zip(losses, micro_batches, strict=True)
        if not math.isfinite(loss)
        for row, weight in zip(micro_batch.rows, micro_batch.weights, strict=True)
        if weight
    ]
    named, _ = ranks.outcomes(lambda: prepared.train[rows[:MAX_NAMED_ROWS]]["id"] if rows else [])
    return tuple(name for names in named for name in names or ())[:MAX_NAMED_ROWS]


def _spoilt(loss: torch.Tensor) -> torch.Tensor:
    """Return the loss, or NaN if it is infinite.

    The gradient of an infinite loss may be finite; with NaN, every rank sees the failure in the gradient norm.
    """
    return loss * torch.where(torch.isfinite(loss), 1.0, torch.nan)
