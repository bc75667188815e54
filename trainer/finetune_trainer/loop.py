"""The training of one attempt, from data to saved result.

A step's loss is the sum over its rows divided by the count of what is supervised in them. The counts are stored with
the rows, so every rank knows the denominator before the step begins and only sums go over the wire: the gradients'
and, in one small collective, {stop requests, loss}. Step number, rows, learning rate and randomness are functions of
the step alone, never of DeepSpeed's counters.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed
import numpy as np
import torch

from finetune_trainer.card import write_card
from finetune_trainer.contract import Phase, Result, RunConfig
from finetune_trainer.deepspeed_config import clips_itself, deepspeed_config
from finetune_trainer.distributed import Ranks, raise_stopped
from finetune_trainer.errors import DivergedError, InvalidError
from finetune_trainer.evaluate import evaluate, load_batch
from finetune_trainer.export import export, load_result
from finetune_trainer.model import load_model
from finetune_trainer.optimizer import adamw, learning_rate, optimizer_step
from finetune_trainer.paths import Paths
from finetune_trainer.prepare import Prepared, prepare
from finetune_trainer.report import Report, read_metrics
from finetune_trainer.sampler import Sampler, micro_batch_seed
from finetune_trainer.tasks import task_of

MAX_SKIPPED_IN_A_ROW = 10
"""Steps whose loss or gradient was not finite; one more and the run has diverged."""


@dataclass(frozen=True)
class Step:
    """An optimizer step that was done, or skipped."""

    number: int
    """From 1."""
    loss: float
    """Mean over what is supervised in the step's rows, in nats; NaN if there was nothing, or it is not finite."""
    grad_norm: float
    """L2 norm over all trained parameters before clipping; not finite if the step was skipped."""
    learning_rate: float
    tokens: int
    """Without padding; 0 for images."""
    samples: int

    @property
    def skipped(self) -> bool:
        """Its gradients were dropped."""
        return not math.isfinite(self.grad_norm)


def train(config: RunConfig, paths: Paths, ranks: Ranks, report: Report) -> Result | None:
    """Train and save. All ranks call this; rank 0 gets the result, the others None.

    Raises InvalidError, DivergedError or StoppedError; SiblingError when another rank failed.
    """
    report.phase(Phase.LOAD)
    ranks.first(lambda: prepare(config, paths))
    ranks.stop_together()
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    engine = load_engine(config, prepared, ranks)
    ranks.stop_together()

    report.phase(Phase.EVAL)
    base_metrics = evaluate(engine, prepared, config, ranks.device, ranks)
    report.evaluation(0, 0.0, base_metrics, "base")

    report.phase(Phase.TRAIN)
    sampler = sampler_of(config, prepared)
    total = total_steps(config, sampler)
    for step in steps(engine, prepared, config, ranks):
        epoch = step.number / sampler.steps_per_epoch
        report.step(
            step.number,
            total,
            epoch,
            step.loss,
            step.learning_rate,
            step.grad_norm,
            step.tokens,
            step.samples,
        )
        if step.number % sampler.steps_per_epoch == 0:
            report.phase(Phase.EVAL)
            report.evaluation(step.number, epoch, evaluate(engine, prepared, config, ranks.device, ranks), "epoch")
            report.phase(Phase.TRAIN)

    ranks.stop_together()
    report.phase(Phase.EXPORT)
    exported = export(engine, prepared.settings.processor, config, paths, ranks)
    engine.destroy()
    del engine
    gc.collect()

    report.phase(Phase.EVAL)

    def measured() -> Result:
        assert exported is not None, "rank 0 has saved"
        model = load_result(paths.output(config), config.task, remote_code=config.allow_remote_code).to(ranks.device)
        metrics = evaluate(model, prepared, config, ranks.device, None)
        report.evaluation(total, total / sampler.steps_per_epoch, metrics, "final")
        result = Result(
            path=exported.path,
            digest=exported.digest,
            base_metrics=base_metrics,
            metrics=metrics,
            step=total,
            trainable_parameters=exported.trainable_parameters,
            parameters=exported.parameters,
            merged_path=exported.merged_path,
        )
        write_card(paths.output(config), config, prepared, read_metrics(paths.run(config)), result)
        return result

    return ranks.first(measured)


def load_engine(config: RunConfig, prepared: Prepared, ranks: Ranks) -> Any:
    """DeepSpeed's engine around the start model, in training mode. All ranks call this."""
    settings = deepspeed_config(config)
    model = ranks.every(lambda: load_model(config, prepared, settings))
    engine = ranks.every(lambda: _initialize(config, model, settings))
    engine.train()
    return engine


def _initialize(config: RunConfig, model: torch.nn.Module, settings: dict[str, Any]) -> Any:
    try:
        deepspeed.DeepSpeedConfig(settings)
    except Exception as error:
        if not config.deepspeed:
            raise
        reason = " ".join(str(error).split())[:300]
        raise InvalidError(f"deepspeed.config: DeepSpeed refuses it ({reason}); correct or remove the key") from None
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adamw(model, config), config=settings, dist_init_required=False
    )
    # In bf16 without ZeRO, DeepSpeed begins with a step on zero gradients, which Adam's bias correction would count:
    # the first updates would be a quarter too small.
    engine.basic_optimizer.state.clear()
    return engine


def sampler_of(config: RunConfig, prepared: Prepared) -> Sampler:
    """The order of the training rows."""
    return Sampler(
        rows=len(prepared.train),
        global_batch=config.training.global_batch_size,
        micro_batch=config.training.micro_batch_size,
        world=config.world.size,
        seed=config.training.seed,
        digest=prepared.digest,
    )


def total_steps(config: RunConfig, sampler: Sampler) -> int:
    """Optimizer steps of the run."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    assert config.training.epochs is not None, "one of epochs and max_steps is set"
    return config.training.epochs * sampler.steps_per_epoch


def steps(engine: Any, prepared: Prepared, config: RunConfig, ranks: Ranks) -> Iterator[Step]:
    """Do all steps of the run. Raises DivergedError and StoppedError, on all ranks at the same step."""
    training = config.training
    sampler = sampler_of(config, prepared)
    total = total_steps(config, sampler)
    counts, lengths = np.asarray(prepared.train["count"]), np.asarray(prepared.train["length"])
    skipped = 0
    for number in range(total):
        items = sampler.items(number)
        count = int(counts[items].sum())
        loss_sum = _accumulate(engine, prepared, config, sampler, number, count, ranks)
        stops, loss_sum = ranks.sum(ranks.stop_requested, loss_sum)
        rate = learning_rate(training, number, total)
        norm = optimizer_step(engine, rate, training.max_grad_norm, clips_itself(config))
        step = Step(
            number=number + 1,
            loss=loss_sum / count if count and math.isfinite(loss_sum) else math.nan,
            grad_norm=norm,
            learning_rate=rate,
            tokens=int(lengths[items].sum()),
            samples=len(items),
        )
        assert step.skipped or math.isfinite(loss_sum), f"step {step.number} was done with a loss of {loss_sum}"
        skipped = skipped + 1 if step.skipped else 0
        if skipped > MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"training.learningRate: the loss or its gradient was not finite in {skipped} steps in a row up to "
                f"step {step.number}; lower the learning rate (now {training.learning_rate:g}) or check the rows"
            )
        yield step
        if stops:
            raise_stopped()


def _accumulate(
    engine: Any, prepared: Prepared, config: RunConfig, sampler: Sampler, number: int, count: int, ranks: Ranks
) -> float:
    """Forward and backward over this rank's micro-batches of a step. Returns its part of the loss sum."""
    task = task_of(config.task)
    loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
    micro_batches = sampler.micro_batches(number, ranks.rank)
    for micro_batch in micro_batches:
        torch.manual_seed(micro_batch_seed(config.training.seed, number, micro_batch.index))
        batch = load_batch(prepared.train, micro_batch, task, prepared, ranks.device, config)
        engine.set_gradient_accumulation_boundary(micro_batch is micro_batches[-1])
        logits = engine(**batch.features, **task.arguments).logits
        loss = task.loss_sum(*task.aligned(logits, batch.labels))
        # DeepSpeed averages over the ranks. A step in which nothing is supervised has zero gradients.
        engine.backward(_spoilt(loss) * ranks.world / max(count, 1), scale_wrt_gas=False)
        loss_sum += loss.detach()
    return float(loss_sum)


def _spoilt(loss: torch.Tensor) -> torch.Tensor:
    """The loss; NaN if it is infinite, whose gradient might be finite: then every rank sees it in the gradient norm."""
    return loss * torch.where(torch.isfinite(loss), 1.0, torch.nan)
