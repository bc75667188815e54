"""Builds the status that a decision writes: one function for each kind of report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import (
    EvaluationStatus,
    FineTuneJobStatus,
    LedgerEntry,
    ProgressStatus,
    ResultStatus,
    RunStatus,
)
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.observed.text import MAX_MESSAGE_BYTES, shortened
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.status import conditions
from finetune_operator.core.status.health import NOT_TRAINING, Health
from finetune_operator.core.status.ledger import described
from finetune_operator.core.status.outcome import outcome
from finetune_trainer.contract import Result


def in_phase(
    observed: Observed, status: FineTuneJobStatus, phase: Phase, reason: Reason, **words: object
) -> FineTuneJobStatus:
    """Return the status with phase, conditions and observed generation; `words` fill the reason's message."""
    waits = _waiting_edit(observed, status)
    message = shortened(reason.message.format(**words), MAX_MESSAGE_BYTES - len(waits)) + waits
    changed = conditions.for_phase(status.conditions, phase, reason.name, message, observed.generation, observed.now)
    return status.model_copy(update={"phase": phase, "conditions": changed, "observed_generation": observed.generation})


def _waiting_edit(observed: Observed, status: FineTuneJobStatus) -> str:
    """Return the addition to a message about an edit that the unfinished run does not follow."""
    run, newest = status.run, observed.job.metadata.generation
    if not observed.edited or run is None or run.completion_time or run.generation == newest:
        return ""
    return f"; the edit of generation {newest} waits for the end of this run (retrain.whileRunning: Finish)"


def stalled(
    status: FineTuneJobStatus, generation: int, now: datetime, reason: Reason, **words: object
) -> FineTuneJobStatus:
    """Return the status of a job that cannot go on until somebody acts."""
    text = shortened(reason.message.format(**words))
    changed = conditions.stalled(status.conditions, reason.name, text, generation, now)
    update = {"phase": status.phase or Phase.PENDING, "conditions": changed, "observed_generation": generation}
    return status.model_copy(update=update)


def world_ready(observed: Observed, status: FineTuneJobStatus, run: RunStatus) -> FineTuneJobStatus:
    """Return the status of an attempt whose ranks have all attested world and configuration.

    The run keeps this fact when the attempt has ended.
    """
    goes_on = status.run or run
    status = status.model_copy(update={"run": goes_on.model_copy(update={"attested": True})})
    text = constants.WORLD_READY.message.format(world=run.world, digest=(run.config_digest or "")[:12])
    return _with(observed, status, ConditionType.WORLD_READY, "True", constants.WORLD_READY.name, text)


def between_attempts(
    observed: Observed, status: FineTuneJobStatus, training: Health = NOT_TRAINING
) -> FineTuneJobStatus:
    """Return the status when an attempt begins or has ended: no world is ready, and nothing is trained."""
    reason, message = constants.NOT_YET
    return with_health(observed, _with(observed, status, ConditionType.WORLD_READY, "False", reason, message), training)


def with_health(observed: Observed, status: FineTuneJobStatus, health: Health) -> FineTuneJobStatus:
    """Return the status with the condition TrainingHealthy as given."""
    text = shortened(health.message)
    return _with(observed, status, ConditionType.TRAINING_HEALTHY, health.truth, health.reason.name, text)


def _with(
    observed: Observed,
    status: FineTuneJobStatus,
    kind: ConditionType,
    truth: conditions.Truth,
    reason: str,
    message: str,
) -> FineTuneJobStatus:
    generation, now = observed.generation, observed.now
    changed = conditions.set_condition(status.conditions, kind, truth, reason, message, generation, now)
    return status.model_copy(update={"conditions": changed})


def as_suspending(observed: Observed, status: FineTuneJobStatus, run: RunStatus, pods: int) -> FineTuneJobStatus:
    """Return the status of a job that is being suspended while that many pods still exist."""
    return in_phase(observed, status, Phase.SUSPENDING, constants.SUSPENDING, run=run.number, pods=pods)


def as_suspended(observed: Observed, status: FineTuneJobStatus, detail: str) -> FineTuneJobStatus:
    """Return the status of a suspended job that has no pods any more."""
    return in_phase(observed, status, Phase.SUSPENDED, constants.SUSPENDED, detail=detail)


def as_failed(observed: Observed, status: FineTuneJobStatus, entry: LedgerEntry) -> FineTuneJobStatus:
    """Return the status of a job whose newest run has failed for good."""
    return in_phase(observed, status, Phase.FAILED, constants.FAILED, run=entry.run, detail=described(entry))


def as_complete(observed: Observed, status: FineTuneJobStatus, run: RunStatus) -> FineTuneJobStatus:
    """Return the status of a job whose newest run has a result; the status must already contain it."""
    assert status.result is not None, "a complete run has a result"
    words = {
        "run": run.number,
        "path": status.result.path,
        "outcome": "".join(f"; {clause}" for clause in outcome(status.result)),
    }
    return in_phase(observed, status, Phase.COMPLETE, constants.COMPLETE, **words)


def result_of(result: Result) -> ResultStatus:
    """Return the trainer's report about the saved model in the form of the status."""
    return ResultStatus(
        path=result.path,
        uri=f"workspace://{result.merged_path or result.path}",
        digest=result.digest,
        merged_path=result.merged_path,
        merge_failure=result.merge_failure,
        step=result.step,
        last_step=result.last_step,
        stopped_early=result.stopped_early,
        trainable_parameters=result.trainable_parameters,
        parameters=result.parameters,
    )


def with_result(status: FineTuneJobStatus, result: Result) -> FineTuneJobStatus:
    """Return the status with the result of the run and its evaluation."""
    return status.model_copy(
        update={
            "progress": _finished(status.progress, result),
            "evaluation": EvaluationStatus(base=_finite(result.base_metrics), final=_finite(result.metrics)),
            "result": result_of(result),
        }
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are finite.

    JSON has no infinity: the API server would refuse the status, and the run would never end.
    """
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _finished(so_far: ProgressStatus | None, result: Result) -> ProgressStatus:
    done = result.last_step or result.step
    if so_far is None:
        return ProgressStatus(step=done, total_steps=done, epoch=0, eta_seconds=0, eta="0s")
    total = so_far.total_steps if result.stopped_early else done
    return so_far.model_copy(update={"step": done, "total_steps": total, "eta_seconds": 0, "eta": "0s"})
