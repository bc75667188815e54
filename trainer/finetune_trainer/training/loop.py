"""The training of one attempt, from the data to the saved result."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from finetune_trainer.checkpoint.checkpoints import Checkpoints
from finetune_trainer.checkpoint.files import Position
from finetune_trainer.contract import CheckpointReport, Phase, Result, RunConfig
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.errors import NoCheckpointError, StoppedError, SupersededError
from finetune_trainer.model.engine import load_engine, refusals_named
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
from finetune_trainer.training.report import Report, Split
from finetune_trainer.training.selection import after_evaluation, ends_early, evaluation_is_due
from finetune_trainer.training.steps import Step, refuse_divergence, sampler_of, steps, total_steps


def train(config: RunConfig, paths: Paths, ranks: Ranks, report: Report) -> Result | None:
    """Train the model and save the result. All ranks call this; rank 0 gets the result, the others None.

    Raises InvalidError, DivergedError, StoppedError, SupersededError or NoCheckpointError, and SiblingError if another
    rank failed.
    """
    report.phase(Phase.LOAD)
    ranks.first(lambda: claim(config, paths))
    ranks.first(lambda: prepare(config, paths))
    ranks.stop_together()
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    report.facts(prepared.facts)
    engine = load_engine(config, prepared, ranks)
    ranks.stop_together()

    training = Training(config, paths, ranks, report, prepared, engine)
    training.begin()
    for step in () if training.is_over else steps(engine, prepared, config, ranks, training.requests, training.done):
        training.after(step)
        if training.is_over:
            break
    training.save()
    kept_step = training.take_kept_model()

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
        report.evaluation(kept_step, kept_step / training.sampler.steps_per_epoch, metrics, "final")
        result = Result(
            path=exported.path,
            digest=merged.digest or exported.digest,
            base_metrics=training.base_metrics,
            metrics=metrics,
            step=kept_step,
            last_step=training.done if training.done != kept_step else None,
            stopped_early=training.done < training.total,
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
    """The state of this attempt's training, and the work after each step: reports, evaluations and checkpoints."""

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
        """Resume from the newest checkpoint that can be trusted, or evaluate the start model if there is none."""
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
            # Some models fail only here if they do not work with DeepSpeed.
            with refusals_named(self.config, self.prepared):
                self.base_metrics = evaluate(self.engine, self.prepared, self.config, self.ranks)
            self.report.evaluation(0, 0.0, self.base_metrics, "base")
        self.report.phase(Phase.TRAIN)

    def after(self, step: Step) -> None:
        """Report a step, evaluate, save and stop, in this order. Raises the errors of `train`, on all ranks."""
        is_due = evaluation_is_due(self.config, step.number, self.sampler.steps_per_epoch, self.total)
        self.position = self.position.model_copy(
            update={
                "step": step.number,
                "epoch": step.number / self.sampler.steps_per_epoch,
                "evaluated": not is_due,
                "health": after_step(self.position.health, step.loss, step.skipped),
            }
        )
        slow = straggler(step.own_seconds) if step.own_seconds else None
        self.report.step(step, self.total, self.position, slow)
        if step.asked.make_way:
            raise SupersededError("a newer attempt of the run has begun; this one makes way")
        refuse_divergence(self.config, step, self.position.health.skipped_in_row)
        if step.asked.stop:
            self.save()
            raise_stopped()
        best_before = self.position.best
        is_best = is_due and self._evaluate()
        if (step.asked.save or is_best) and not self.save() and is_best:
            # The best model is restored from its checkpoint, so a model without one cannot become the result.
            self.position = self.position.model_copy(update={"best": best_before})

    @property
    def done(self) -> int:
        """The number of optimizer steps that are done or skipped."""
        return self.position.step

    @property
    def is_over(self) -> bool:
        """Whether the training ends here, although steps may be left."""
        return ends_early(self.config, self.position)

    def save(self) -> bool:
        """Write a checkpoint of this step, unless it exists. Returns whether it exists now."""
        if self._checkpoints.has(self.position):
            return True
        self.report.phase(Phase.SAVE)
        self.report.flush()
        self.requests.saved()
        told = self._checkpoints.save(self.engine, self.position, self.base_metrics, self.requests.answered)
        self.report.checkpoint(told)
        self.report.phase(Phase.TRAIN)
        return isinstance(told, CheckpointReport)

    def take_kept_model(self) -> int:
        """Give the engine the model that becomes the result, and return the number of its optimizer step.

        Raises NoCheckpointError if neither the checkpoint of the best step nor that of the last step can be restored.
        """
        best = self.position.best
        if self.config.keep == "Last" or best is None or best.step == self.done:
            return self.done
        self.report.phase(Phase.EXPORT)
        failure = self._checkpoints.restore(self.engine, best.step)
        if failure is None:
            self.report.say(f"Step {best.step} is kept: its {best.metric} of {best.value:.4g} is the best one.")
            return best.step
        self.report.say(f"The best model, of step {best.step}, is lost ({failure}); the last step's is kept.")
        if failure := self._checkpoints.restore(self.engine, self.done):
            raise NoCheckpointError(
                f"neither the checkpoint of the best step {best.step} nor that of the last step {self.done} can be "
                f"used: {failure}; change retrain.request for a new run"
            )
        return self.done

    def release(self) -> None:
        """Release the engine, to free its memory."""
        self.engine = None

    def _evaluate(self) -> bool:
        """Evaluate the model and return whether it is the best so far.

        Raises StoppedError after saving a checkpoint.
        """
        self.report.phase(Phase.EVAL)
        try:
            metrics = evaluate(self.engine, self.prepared, self.config, self.ranks)
        except StoppedError:
            self.save()
            raise
        split: Split = "step" if self.config.evaluate_every_steps else "epoch"
        self.report.evaluation(self.position.step, self.position.epoch, metrics, split)
        self.report.phase(Phase.TRAIN)
        before, self.position = self.position, after_evaluation(self.config, self.position, metrics)
        return self.position.best != before.best
