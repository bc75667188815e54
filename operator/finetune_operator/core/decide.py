"""decide(observed) -> what to write or to make. Reads as a table of contents; each rule is in a file of its own.

A decision is either a change of the status or the creation of children, never both: what starts or ends an attempt is
written first and ends the reconcile, and the next one acts on it. A crash in between loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

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
from finetune_operator.core import conditions, progress
from finetune_operator.core.cause import Cause, cause_of
from finetune_operator.core.naming import child_name
from finetune_operator.core.observed import Observed, PodView
from finetune_operator.core.resolve import refusals, run_config, storage_claim
from finetune_operator.core.retrain import next_run, run_is_needed
from finetune_operator.core.settings import Settings
from finetune_operator.core.success import judge
from finetune_operator.core.text import shortened
from finetune_operator.core.times import to_text
from finetune_trainer.contract import Result

MAX_LEDGER_ENTRIES = 20
MAX_LEDGER_BYTES = 20 * 1024
"""With this, a status stays below 32 KiB."""
ENTRIES_WITH_LOG = 3


@dataclass(frozen=True)
class Decision:
    """What a reconcile does: write the status if it differs, or make the children of the attempt in the status."""

    status: FineTuneJobStatus | None = None
    create_children: bool = False
    look_again: float | None = None
    """Seconds; None: when something changes."""


def decide(observed: Observed, settings: Settings) -> Decision:
    """The next step of a job that is valid and not being deleted."""
    job = observed.job
    run = job.status.run
    if run is None or run.completion_time:
        if not run_is_needed(job):
            return _settled(observed)
        return _start(observed, settings, number=run.number + 1 if run else 1)
    if observed.child is None:
        if run.job_uid is None:
            return _create(observed, run, settings)
        return _end_as_failure(observed, run, cause_of(None, observed.pods))
    if observed.child.owner_uid != job.metadata.uid:
        name = child_name(job.metadata.name, job.metadata.uid, run.number, run.attempt)
        return _stall_job(observed, constants.NAME_CONFLICT, kind="Job", name=name)
    if verdict := judge(run, observed.child, observed.pods):
        if verdict.result:
            return _end_as_success(observed, run, verdict.result)
        return _end_as_failure(observed, run, Cause(verdict.failure, verdict.fault))
    if observed.child.failure or observed.child.deleted:
        return _failing(observed, run, settings)
    return _report(observed, run, settings)


def decide_invalid(status: FineTuneJobStatus, generation: int, sentences: tuple[str, ...], now: datetime) -> Decision:
    """The next step of a job whose spec cannot be read: say so, and wait for another generation."""
    return stall(status, generation, now, constants.INVALID_SPEC, detail="; ".join(sentences))


# ---- the beginning --------------------------------------------------------------------------------------------------


def _start(observed: Observed, settings: Settings, number: int) -> Decision:
    job = observed.job
    if sentences := refusals(job.spec, settings):
        return _stall_job(observed, constants.INVALID_SPEC, detail="; ".join(sentences))
    nodes = job.spec.resources.nodes
    if nodes > 1 and observed.claim_modes is not None and not _shared(observed.claim_modes):
        return _stall_job(
            observed,
            constants.VOLUME_NOT_SHARED,
            claim=storage_claim(job.spec, settings.claim),
            modes=", ".join(observed.claim_modes),
            nodes=nodes,
        )
    run = next_run(job, number, settings, observed.nonce, observed.now)
    status = job.status.model_copy(update={"run": run, "progress": None, "evaluation": None, "result": None})
    status = _in_phase(observed, status, Phase.PENDING, constants.PENDING, detail="")
    return Decision(_world_not_ready(observed, status), look_again=0)


def _shared(modes: tuple[str, ...]) -> bool:
    return "ReadWriteMany" in modes


def _create(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    if (
        run.generation != observed.job.metadata.generation
        or run_config(observed.job, run, settings).digest != run.config_digest
    ):
        # The spec was changed between the decision to start and the start (or the operator was, and the defaults with
        # it). Another number: some of this run's children may be there, and they are never changed.
        return _start(observed, settings, number=run.number + 1)
    return Decision(create_children=True, look_again=settings.starting_interval)


# ---- the way --------------------------------------------------------------------------------------------------------


def _report(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    assert observed.child is not None
    seen = {"job_uid": observed.child.uid, "image_id": run.image_id or _image_id(observed.pods)}
    status = observed.job.status.model_copy(update={"run": run.model_copy(update=seen)})
    answers = list(observed.answers.values())
    if not conditions.is_true(status.conditions, ConditionType.WORLD_READY):
        if not progress.world_complete(run, answers):
            return Decision(_waiting(observed, status, run), look_again=settings.starting_interval)
        status = _world_ready(observed, status, run)
    phase = progress.phase_of(answers, Phase(status.phase or Phase.STARTING))
    status = status.model_copy(update={"progress": progress.progress_of(answers, status.progress)})
    reason = {Phase.TRAINING: constants.TRAINING, Phase.EXPORTING: constants.EXPORTING}.get(phase, constants.STARTING)
    words = {"run": run.number, "ready": run.world, "world": run.world, "detail": ""}
    return Decision(_in_phase(observed, status, phase, reason, **words), look_again=settings.progress_interval)


def _image_id(pods: tuple[PodView, ...]) -> str | None:
    return next((pod.image_id for pod in pods if pod.image_id), None)


def _waiting(observed: Observed, status: FineTuneJobStatus, run: RunStatus) -> FineTuneJobStatus:
    stuck = next((f"pod {p.name}: {p.waiting}" for p in observed.pods if p.waiting), observed.refused)
    detail = f"; {stuck}" if stuck else ""
    if any(pod.scheduled for pod in observed.pods):
        ready = len(progress.attested(run, observed.answers.values()))
        return _in_phase(
            observed, status, Phase.STARTING, constants.STARTING, ready=ready, world=run.world, detail=detail
        )
    return _in_phase(observed, status, Phase.PENDING, constants.PENDING, detail=detail)


def _world_ready(observed: Observed, status: FineTuneJobStatus, run: RunStatus) -> FineTuneJobStatus:
    text = constants.WORLD_READY.message.format(world=run.world, digest=(run.config_digest or "")[:12])
    return _with_world(observed, status, "True", constants.WORLD_READY.name, text)


def _world_not_ready(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    return _with_world(observed, status, "False", constants.NOT_YET.name, constants.NOT_YET.message)


def _with_world(
    observed: Observed, status: FineTuneJobStatus, truth: conditions.Truth, reason: str, message: str
) -> FineTuneJobStatus:
    changed = conditions.set_condition(
        status.conditions, ConditionType.WORLD_READY, truth, reason, message, _generation(status), observed.now
    )
    return status.model_copy(update={"conditions": changed})


# ---- the end --------------------------------------------------------------------------------------------------------


def _failing(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Wait a moment for the other pods' words: the one who says why may be last."""
    assert observed.child is not None
    failure = observed.child.failure
    open_ends = [pod for pod in observed.pods if pod.exit_code is None and not pod.disrupted]
    if failure and open_ends and observed.now < failure + timedelta(seconds=settings.settle):
        return Decision(None, look_again=1)
    return _end_as_failure(observed, run, cause_of(observed.child, observed.pods))


def _end_as_failure(observed: Observed, run: RunStatus, cause: Cause) -> Decision:
    entry = LedgerEntry(
        run=run.number,
        attempt=run.attempt,
        failure=cause.failure,
        message=shortened(cause.message),
        exit_code=cause.exit_code,
        rank=cause.rank,
        node=cause.node,
        pod=cause.pod,
        step=cause.step,
        start_time=run.start_time,
        end_time=to_text(observed.now),
        log=list(cause.log),
    )
    ledger = _within_bounds([*observed.job.status.ledger, entry])
    status = _ended(observed, run).model_copy(update={"ledger": ledger})
    return Decision(_as_failed(observed, status, entry), look_again=0)


def _within_bounds(ledger: list[LedgerEntry]) -> list[LedgerEntry]:
    """The newest entries, only the last few of them with their log lines."""
    ledger = ledger[-MAX_LEDGER_ENTRIES:]
    without_log = [entry.model_copy(update={"log": []}) for entry in ledger[:-ENTRIES_WITH_LOG]]
    ledger = without_log + ledger[-ENTRIES_WITH_LOG:]
    while sum(len(entry.model_dump_json(by_alias=True).encode()) for entry in ledger) > MAX_LEDGER_BYTES:
        ledger = ledger[1:]
    return ledger


def _as_failed(observed: Observed, status: FineTuneJobStatus, entry: LedgerEntry) -> FineTuneJobStatus:
    where = f" (exit code {entry.exit_code}, node {entry.node})" if entry.exit_code is not None else ""
    detail = f"{entry.failure}{where}: {entry.message}"
    return _in_phase(observed, status, Phase.FAILED, constants.FAILED, run=entry.run, detail=detail)


def _end_as_success(observed: Observed, run: RunStatus, result: Result) -> Decision:
    status = _ended(observed, run).model_copy(
        update={
            "progress": _finished(observed.job.status.progress, result),
            "evaluation": EvaluationStatus(base=_finite(result.base_metrics), final=_finite(result.metrics)),
            "result": ResultStatus(
                path=result.path,
                uri=f"workspace://{result.merged_path or result.path}",
                digest=result.digest,
                merged_path=result.merged_path,
                trainable_parameters=result.trainable_parameters,
                parameters=result.parameters,
            ),
        }
    )
    return Decision(_as_complete(observed, status, run, result.path), look_again=0)


def _as_complete(observed: Observed, status: FineTuneJobStatus, run: RunStatus, path: str) -> FineTuneJobStatus:
    return _in_phase(observed, status, Phase.COMPLETE, constants.COMPLETE, run=run.number, path=path)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no infinity: the API server would refuse the status, and the run would never end."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _ended(observed: Observed, run: RunStatus) -> FineTuneJobStatus:
    job_uid = observed.child.uid if observed.child else run.job_uid
    ended = run.model_copy(update={"completion_time": to_text(observed.now), "job_uid": job_uid})
    return observed.job.status.model_copy(update={"run": ended})


def _finished(so_far: ProgressStatus | None, result: Result) -> ProgressStatus | None:
    if so_far is None:
        return ProgressStatus(step=result.step, total_steps=result.step, epoch=0, eta_seconds=0, eta="0s")
    return so_far.model_copy(update={"step": result.step, "total_steps": result.step, "eta_seconds": 0, "eta": "0s"})


# ---- the status -----------------------------------------------------------------------------------------------------


def _generation(status: FineTuneJobStatus) -> int:
    """The run's: after an edit, what is said of the run is not said of the edited spec."""
    assert status.run is not None
    return status.run.generation


def _in_phase(
    observed: Observed, status: FineTuneJobStatus, phase: Phase, reason: Reason, **words: object
) -> FineTuneJobStatus:
    generation = _generation(status)
    message = shortened(reason.message.format(**words))
    changed = conditions.for_phase(status.conditions, phase, reason.name, message, generation, observed.now)
    return status.model_copy(update={"phase": phase, "conditions": changed, "observed_generation": generation})


def _stall_job(observed: Observed, reason: Reason, **words: object) -> Decision:
    return stall(observed.job.status, observed.job.metadata.generation, observed.now, reason, **words)


def stall(status: FineTuneJobStatus, generation: int, now: datetime, reason: Reason, **words: object) -> Decision:
    """Nothing goes on until somebody acts: say why. It is tried again in a minute."""
    text = shortened(reason.message.format(**words))
    changed = conditions.stalled(status.conditions, reason.name, text, generation, now)
    update = {"phase": status.phase or Phase.PENDING, "conditions": changed, "observed_generation": generation}
    return Decision(status.model_copy(update=update), look_again=60)


def _settled(observed: Observed) -> Decision:
    """Nothing to train: the newest run's end, which may have been overlaid by a fault, speaks for this generation."""
    status, run = observed.job.status, observed.job.status.run
    assert run is not None
    run = run.model_copy(update={"generation": observed.job.metadata.generation})
    status = status.model_copy(update={"run": run})
    if status.result:
        return Decision(_as_complete(observed, status, run, status.result.path))
    if status.ledger and status.ledger[-1].run == run.number:
        return Decision(_as_failed(observed, status, status.ledger[-1]))
    return Decision()
