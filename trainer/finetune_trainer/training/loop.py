"""The training of one attempt, from data to saved result."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from finetune_trainer.checkpoint.checkpoints import Checkpoints
from finetune_trainer.checkpoint.files import Best, Position
from finetune_trainer.contract import Phase, Result, RunConfig
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.errors import StoppedError, SupersededError
from finetune_trainer.model.engine import load_engine
from finetune_trainer.model.evaluate import evaluate
from finetune_trainer.model.export import export, load_result
from finetune_trainer.model.merge import Merged, add_merged_copy
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.claim import claim, refuse_outdated
from finetune_trainer.ranks.distributed import Ranks, raise_stopped
from finetune_trainer.ranks.requests import Requests
from finetune_trainer.ranks.stragglers import straggler
from finetune_trainer.training.card import write_card
from finetune_trainer.training.health import after_step
from finetune_trainer.training.metrics_files import read_metrics
from finetune_trainer.training.report import Report
from finetune_trainer.training.steps import Step, refuse_divergence, sampler_of, steps, total_steps


def train(config: RunConfig, paths: Paths, ranks: Ranks, report: Report) -> Result | None:
    """Train and save. All ranks call this; rank 0 gets the result, the others None.

    Raises InvalidError, DivergedError, StoppedError, SupersededError or NoCheckpointError; SiblingError when another
    rank failed.
    """
    report.phase(Phase.LOAD)
    ranks.first(lambda: claim(config, paths))
    ranks.first(lambda: prepare(config, paths))
    ranks.stop_together()
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    engine = load_engine(config, prepared, ranks)
    ranks.stop_together()

    training = Training(config, paths, ranks, report, prepared, engine)
    training.begin()
    for step in steps(engine, prepared, config, ranks, training.requests, training.position.step):
        training.after(step)
    training.save()

    ranks.stop_together()
    ranks.first(lambda: refuse_outdated(config, paths))
    report.phase(Phase.EXPORT)
    exported = export(engine, prepared.settings.processor, config, paths, ranks)
    engine.destroy()
    del engine
    training.release()
    gc.collect()
    ranks.stop_together()
    merged = ranks.first(lambda: add_merged_copy(prepared, config, paths, ranks) if config.merge else Merged())

    report.phase(Phase.CHECK)

    def measured() -> Result:
        assert exported is not None, "rank 0 has saved"
        assert merged is not None, "rank 0 has merged, if it was asked to"
        model = load_result(paths.output(config), config.task, remote_code=config.allow_remote_code).to(ranks.device)
        metrics = evaluate(model, prepared, config, ranks, alone=True)
        report.evaluation(training.total, training.position.epoch, metrics, "final")
        result = Result(
            path=exported.path,
            digest=merged.digest or exported.digest,
            base_metrics=training.base_metrics,
            metrics=metrics,
            step=training.total,
            trainable_parameters=exported.trainable_parameters,
            parameters=exported.parameters,
            merged_path=merged.path,
            merge_failure=merged.failure,
        )
        write_card(paths.output(config), config, prepared, read_metrics(paths.run(config)), result)
        return result

    return ranks.first(measured)


@dataclass
class Training:
    """Where the training of this attempt is, and what belongs to each step besides the step itself."""

    config: RunConfig
    paths: Paths
    ranks: Ranks
    report: Report
    prepared: Prepared
    engine: Any

    def __post_init__(self) -> None:
        self.sampler: Sampler = sampler_of(self.config, self.prepared)
        self.total = total_steps(self.config, self.sampler)
        self.requests = Requests(self.config, self.paths, self.ranks.rank)
        self.position = Position(step=0, epoch=0.0, evaluated=True)
        self.base_metrics: dict[str, float] = {}
        self._checkpoints = Checkpoints(self.config, self.paths, self.prepared, self.ranks, self.total)

    def begin(self) -> None:
        """From the newest checkpoint that can be trusted; without any, measure the start model."""
        if resumed := self._checkpoints.resume(self.engine):
            manifest, told = resumed
            self.position, self.base_metrics = manifest.position, manifest.base_metrics
            self.report.resume(self.position, self.base_metrics, told)
            self.requests.answered = manifest.request
            if not self.position.evaluated:
                self._evaluate()
        else:
            self.report.begin()
            self.report.phase(Phase.EVAL)
            self.base_metrics = evaluate(self.engine, self.prepared, self.config, self.ranks)
            self.report.evaluation(0, 0.0, self.base_metrics, "base")
        self.report.phase(Phase.TRAIN)

    def after(self, step: Step) -> None:
        """Report, measure, save, stop: in this order. Raises what `train` raises, on all ranks."""
        is_end_of_epoch = step.number % self.sampler.steps_per_epoch == 0
        self.position = Position(
            step=step.number,
            epoch=step.number / self.sampler.steps_per_epoch,
            evaluated=not is_end_of_epoch,
            best=self.position.best,
            health=after_step(self.position.health, step.loss, step.skipped),
        )
        slow = straggler(step.own_seconds) if step.own_seconds else None
        self.report.step(step, self.total, self.position, slow)
        if step.asked.make_way:
            raise SupersededError("a newer attempt of the run has begun; this one makes way")
        refuse_divergence(self.config, step, self.position.health.skipped_in_row)
        if step.asked.stop:
            self.save()
            raise_stopped()
        is_best = is_end_of_epoch and self._evaluate()
        if step.asked.save or is_best:
            self.save()

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self._checkpoints.has(self.position):
            return
        self.report.phase(Phase.SAVE)
        self.report.flush()
        self.requests.saved()
        told = self._checkpoints.save(self.engine, self.position, self.base_metrics, self.requests.answered)
        self.report.checkpoint(told)
        self.report.phase(Phase.TRAIN)

    def release(self) -> None:
        """Let go of the engine's memory."""
        self.engine = None

    def _evaluate(self) -> bool:
        """At the end of an epoch. Returns whether it is the best so far. Raises StoppedError after saving."""
        self.report.phase(Phase.EVAL)
        try:
            metrics = evaluate(self.engine, self.prepared, self.config, self.ranks)
        except StoppedError:
            self.save()
            raise
        self.report.evaluation(self.position.step, self.position.epoch, metrics, "epoch")
        self.report.phase(Phase.TRAIN)
        metric = self.config.metrics[0]
        now = Best(step=self.position.step, metric=metric, value=metrics[metric])
        is_best = self.position.best is None or _is_better(now, self.position.best)
        best = now if is_best else self.position.best
        self.position = self.position.model_copy(update={"evaluated": True, "best": best})
        return is_best


def _is_better(now: Best, before: Best) -> bool:
    return now.value < before.value if now.metric == "perplexity" else now.value > before.value
