"""decide(observed) -> what to write, to make or to delete. Reads as a table of contents; each rule is in its own file.

What starts or ends an attempt is written before anything is made or deleted, by the same reconcile if it knows all that
this takes, else by the next one: a crash in between loses nothing, for the next one finds what is still to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, InvalidStatusError
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.attempt import checkpoint
from finetune_operator.core.attempt.cause import Cause, cause_of, has_failed, seconds_to_wait, stops_by_itself
from finetune_operator.core.attempt.deadline import Late, active_seconds, overdue
from finetune_operator.core.attempt.restart import GiveUp, Restart, after_failure, bad_nodes
from finetune_operator.core.attempt.stopping import seconds_until_stopped
from finetune_operator.core.attempt.success import judge
from finetune_operator.core.observed.views import Observed, PodView
from finetune_operator.core.run import suspend, volume
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.run.resolve import micro_batch_of, refusals, run_config, storage_claim, with_config_digest
from finetune_operator.core.run.retrain import next_attempt, next_run, run_is_needed
from finetune_operator.core.run.ttl import seconds_left
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import conditions, health, ledger, progress
from finetune_operator.core.status import written as status
from finetune_operator.core.times import duration, from_text, to_text
from finetune_trainer.contract import FailureClass, Result


@dataclass(frozen=True)
class Decision:
    """What a reconcile does, in this order: write the status if it differs, delete, and make children."""

    status: FineTuneJobStatus | None = None
    create_children: bool = False
    delete_job: str | None = None
    """Name of an attempt's Job, whose pods are to go."""
    delete_children: bool = False
    """All children of the newest run."""
    look_again: float | None = None
    """Seconds; None: when something changes."""
    is_report: bool = False
    """Nothing is decided but what the status says of an attempt that goes on."""


def decide(observed: Observed, settings: Settings) -> Decision:
    """The next step of a job that is valid and not being deleted."""
    job = observed.job
    run = job.status.run
    if run is None or run.completion_time:
        return _at_rest(observed, run, settings)
    if observed.previous and not observed.previous.deleted:
        return Decision(delete_job=_name(observed, run, before=1), look_again=0)
    if observed.child and observed.child.owner_uid != job.metadata.uid:
        return _stall_job(observed, constants.NAME_CONFLICT, kind="Job", name=_name(observed, run))
    if observed.child and (verdict := judge(run, observed.child, observed.pods)):
        if verdict.result:
            return _end_as_success(observed, run, verdict.result)
        return _end_as_failure(observed, run, Cause(verdict.failure, verdict.fault), settings)
    if observed.child and has_failed(observed.child, observed.pods):
        return _failing(observed, run, settings)
    if observed.edited and job.spec.retrain.while_running == "Replace":
        message = "the spec was edited, and retrain.whileRunning is Replace"
        return _end_as_failure(observed, run, Cause(FailureClass.REPLACED, message), settings)
    if observed.child is None:
        if run.job_uid is not None:
            return _end_as_failure(observed, run, cause_of(None, observed.pods), settings)
        if observed.spec_lost:
            message = "the spec was edited, and the one that the run began with was deleted with its ConfigMaps"
            return _end_as_failure(observed, run, Cause(FailureClass.REPLACED, message), settings)
        return _suspended(observed, run) if job.spec.suspend else _create(observed, run, settings)
    if job.spec.suspend:
        return _end_as_failure(observed, run, suspend.by_user(run), settings)
    if stopped := suspend.by_another(observed.child, observed.pods):
        return _end_as_failure(observed, run, stopped, settings)
    return _report(observed, run, settings)


def decide_invalid(before: FineTuneJobStatus, generation: int, error: InvalidManifestError, now: datetime) -> Decision:
    """The next step of a job that cannot be read: say so. `before` is what can be read of its status."""
    reason = constants.INVALID_STATUS if isinstance(error, InvalidStatusError) else constants.INVALID_SPEC
    return stall(before, generation, now, reason, detail="; ".join(error.sentences))


def stall(before: FineTuneJobStatus, generation: int, now: datetime, reason: Reason, **words: object) -> Decision:
    """Nothing goes on until somebody acts: say why. It is tried again in a minute."""
    return Decision(status.stalled(before, generation, now, reason, **words), look_again=60)


def _stall_job(observed: Observed, reason: Reason, **words: object) -> Decision:
    return stall(observed.job.status, observed.job.metadata.generation, observed.now, reason, **words)


def _name(observed: Observed, run: RunStatus, before: int = 0) -> str:
    """Of the children of a run's attempt, or of one so many attempts before it."""
    return child_name(observed.job.metadata.name, observed.job.metadata.uid, run.number, run.attempt - before)


# ---- between runs ---------------------------------------------------------------------------------------------------


def _at_rest(observed: Observed, run: RunStatus | None, settings: Settings) -> Decision:
    job = observed.job
    child = observed.child if observed.child and observed.child.owner_uid == job.metadata.uid else None
    if run and run.release and child and not child.deleted:
        return Decision(delete_job=_name(observed, run), look_again=0)
    left = seconds_left(run, job.spec.ttl_seconds_after_finished, observed.now) if run else None
    if observed.leftover and left is not None and left <= 0:
        return Decision(delete_children=True, look_again=0)
    later = left if left is not None and left > 0 else None
    if run_is_needed(job):
        if job.spec.suspend and run and observed.remaining:
            return _suspending(observed, run)
        if job.spec.suspend:
            suspended = Decision(_as_suspended(observed, job.status, "nothing runs"), look_again=later)
            return _unfit(observed, settings) or suspended
        return _start(observed, settings, number=run.number + 1 if run else 1)
    assert run is not None
    return Decision(_settled(observed, run), look_again=later)


def _settled(observed: Observed, run: RunStatus) -> FineTuneJobStatus | None:
    """Nothing to train: the newest run's end, which may have been overlaid by a fault, speaks for this generation."""
    run = run.model_copy(update={"generation": observed.job.metadata.generation})
    now = observed.job.status.model_copy(update={"run": run})
    if now.result:
        return status.as_complete(observed, now, run, now.result)
    entry = ledger.last_failure(now)
    return status.as_failed(observed, now, entry) if entry else None


def _unfit(observed: Observed, settings: Settings) -> Decision | None:
    """Told at once, also while the job is suspended: it is edited then."""
    sentences = refusals(observed.job.spec, settings)
    return _stall_job(observed, constants.INVALID_SPEC, detail="; ".join(sentences)) if sentences else None


def _start(observed: Observed, settings: Settings, number: int) -> Decision:
    job = observed.job
    if unfit := _unfit(observed, settings):
        return unfit
    nodes = job.spec.resources.nodes
    if nodes > 1 and not volume.is_shared(observed.claim_modes):
        return _stall_job(
            observed,
            constants.VOLUME_NOT_SHARED,
            claim=storage_claim(job.spec, settings.claim),
            modes=", ".join(observed.claim_modes or ()),
            nodes=nodes,
        )
    if observed.leftover:
        # Their names cannot be told any more when there is another run.
        return Decision(delete_children=True, look_again=0)
    run = next_run(job, number, settings, observed.nonce, observed.now)
    nothing = dict.fromkeys(("progress", "checkpoint", "evaluation", "result"))
    now = job.status.model_copy(update={"run": run, **nothing})
    now = status.between_attempts(observed, status.in_phase(observed, now, Phase.PENDING, constants.PENDING, detail=""))
    if number > 1:  # pods of the run before may hold the claim
        return Decision(now, look_again=0)
    return Decision(now, create_children=True, look_again=settings.waiting_interval)


# ---- between attempts -----------------------------------------------------------------------------------------------


def _suspended(observed: Observed, run: RunStatus) -> Decision:
    before = observed.job.status
    if observed.remaining:
        return _suspending(observed, run)
    before = before.model_copy(update={"run": run.model_copy(update={"not_before": None})})
    return Decision(
        _as_suspended(observed, before, f"attempt {run.attempt} of run {run.number} starts when it is false")
    )


def _suspending(observed: Observed, run: RunStatus) -> Decision:
    return Decision(_as_suspending(observed, observed.job.status, run, len(observed.remaining)), look_again=1)


def _as_suspending(observed: Observed, before: FineTuneJobStatus, run: RunStatus, pods: int) -> FineTuneJobStatus:
    return status.in_phase(observed, before, Phase.SUSPENDING, constants.SUSPENDING, run=run.number, pods=pods)


def _as_suspended(observed: Observed, before: FineTuneJobStatus, detail: str) -> FineTuneJobStatus:
    return status.in_phase(observed, before, Phase.SUSPENDED, constants.SUSPENDED, detail=detail)


def _create(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    if run.attempt == 1 and observed.edited:
        # The spec was changed between the decision to start and the start. Another number: some of this run's children
        # may be there, and they are never changed.
        return _never_begun(observed, run) if observed.leftover else _start(observed, settings, number=run.number + 1)
    if run_config(observed.job, run, settings).digest != run.config_digest:  # the operator, and its defaults, changed
        if run.attempt == 1:
            return _start(observed, settings, number=run.number + 1)
        again = run.model_copy(update={"attempt": run.attempt + 1, "nonce": observed.nonce})
        again = with_config_digest(observed.job, again, settings)
        return Decision(observed.job.status.model_copy(update={"run": again}), look_again=0)
    if run.not_before and (wait := (from_text(run.not_before) - observed.now).total_seconds()) > 0:
        return Decision(look_again=wait)
    if holder := volume.holder(observed.remaining, observed.claim_modes):
        return _volume_attached(observed, run, holder)
    if (wait := _seconds_until_saved(observed, settings)) > 0:
        return Decision(look_again=min(1.0, wait))
    return Decision(create_children=True, look_again=settings.waiting_interval)


def _seconds_until_saved(observed: Observed, settings: Settings) -> float:
    """An attempt that was suspended is over when its pods are told to stop: they save what the next one begins with.
    They are told a moment after its Job was deleted."""
    entry = ledger.last_failure(observed.job.status)
    if entry is None or entry.class_ != FailureClass.SUSPENDED:
        return 0
    asking = settings.settle - (observed.now - from_text(entry.end_time)).total_seconds()
    unasked = any(pod.running and pod.deleted is None for pod in observed.remaining)
    saving = seconds_until_stopped(observed.remaining, settings.settle, observed.now)
    return max(asking, saving) if unasked else saving


def _volume_attached(observed: Observed, run: RunStatus, holder: PodView) -> Decision:
    words = {
        "attempt": run.attempt,
        "run": run.number,
        "claim": run.claim_name,
        "modes": ", ".join(observed.claim_modes or ()),
        "pod": holder.name,
        "node": holder.node,
    }
    reason = constants.VOLUME_ATTACHED_ELSEWHERE
    phase = Phase.PENDING if run.attempt == 1 else Phase.RESTARTING
    return Decision(status.in_phase(observed, observed.job.status, phase, reason, **words), look_again=5)


def _never_begun(observed: Observed, run: RunStatus) -> Decision:
    """Its end is written before its children go, as any end is. Whatever the spec becomes, another run is needed."""
    ended = run.model_copy(update={"completion_time": to_text(observed.now), "wanted": ""})
    before = observed.job.status.model_copy(update={"run": ended})
    return Decision(status.in_phase(observed, before, Phase.PENDING, constants.PENDING, detail=""), look_again=0)


# ---- the way --------------------------------------------------------------------------------------------------------


def _report(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    assert observed.child is not None
    before = observed.job.status
    reported = conditions.is_true(before.conditions, ConditionType.WORLD_READY)
    tolerance = observed.job.spec.fault_tolerance
    created, heard = observed.child.created, progress.attested_pods(run, observed.answers)
    late = overdue(run, tolerance, observed.pods, reported, observed.refused, observed.now, created, heard)
    if isinstance(late, Late):
        cause = Cause(late.failure, late.message, node=late.node, pod=late.pod)
        return _end_as_failure(observed, run, cause, settings)
    seen = {"job_uid": observed.child.uid, "image_id": run.image_id or _image_id(observed.pods)}
    now = before.model_copy(update={"run": run.model_copy(update=seen)})
    answers = list(observed.answers.values())
    if not reported:
        if not progress.world_complete(run, answers):
            interval = progress.seconds_to_next_look(run, observed.all_run, observed.now, settings)
            soon = min(interval, late.seconds or interval)
            # What is left of the attempt before may be what the quota is used up by.
            delete = _name(observed, run, before=1) if observed.refused and run.attempt > 1 else None
            return Decision(_waiting(observed, now, run), delete_job=delete, look_again=soon, is_report=True)
        now = status.world_ready(observed, now, run)
    phase = progress.phase_of(answers, Phase(now.phase) if now.phase in set(Phase) else Phase.STARTING)
    made = progress.progress_of(run, answers, observed.pods, now.progress)
    newest = checkpoint.newest(answers, now.checkpoint)
    now = now.model_copy(update={"progress": made, "checkpoint": newest})
    if phase is Phase.TRAINING and (healthy := health.while_training(answers, made, newest)):
        now = status.with_health(observed, now, healthy)
    reason = {Phase.TRAINING: constants.TRAINING, Phase.EXPORTING: constants.EXPORTING}.get(
        phase, constants.PODS_RUNNING
    )
    words = {"run": run.number, "pods": run.nodes, "ready": run.world, "world": run.world, "detail": ""}
    told = status.in_phase(observed, now, phase, reason, **words)
    return Decision(told, look_again=settings.progress_interval, is_report=True)


def _image_id(pods: tuple[PodView, ...]) -> str | None:
    return next((pod.image_id for pod in pods if pod.image_id), None)


def _waiting(observed: Observed, now: FineTuneJobStatus, run: RunStatus) -> FineTuneJobStatus:
    before = observed.job.status
    queued = "its Job is suspended" if observed.child and observed.child.suspended else None
    stuck = next(
        (f"pod {p.name}: {p.waiting}" for p in observed.pods if p.waiting and p.present), observed.refused or queued
    )
    detail = f"; {stuck}" if stuck else ""
    if any(pod.scheduled for pod in observed.pods):
        running = sum(pod.running for pod in observed.pods)
        if running < run.nodes and not stuck and progress.starts_now(observed.pods, observed.now):
            return before
        ready = len(progress.attested(run, observed.answers.values()))
        words = {"running": running, "pods": run.nodes, "ready": ready, "world": run.world, "detail": detail}
        reason = constants.STARTING if running < run.nodes else constants.PODS_RUNNING
        return status.in_phase(observed, now, Phase.STARTING, reason, **words)
    return status.in_phase(observed, now, Phase.PENDING, constants.PENDING, detail=detail)


# ---- the end --------------------------------------------------------------------------------------------------------


def _failing(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Wait a moment for the other pods' words: the one who says why may be last, and pods that stop in order save what
    they have done. A pod that is gone says no more."""
    assert observed.child is not None
    settle, now = settings.settle, observed.now
    words = seconds_to_wait(observed.child, observed.pods, now, settle)
    if (wait := max(words, seconds_until_stopped(observed.pods, settle, now))) > 0:
        return Decision(None, look_again=min(1.0, wait))
    return _end_as_failure(observed, run, cause_of(observed.child, observed.pods), settings)


def _end_as_failure(observed: Observed, run: RunStatus, cause: Cause, settings: Settings) -> Decision:
    """The attempt ends; another one follows, or the run ends with it."""
    spec, now = observed.job.spec, observed.now
    newest = checkpoint.last(observed.pods, observed.job.status.checkpoint)
    before = observed.job.status.model_copy(update={"checkpoint": newest})
    rows, progressed = micro_batch_of(spec, run), checkpoint.has_progressed(run, newest)
    follows = after_failure(cause.failure, run, rows, spec.fault_tolerance, now, observed.jitter, progressed)
    step = before.progress.step if before.progress else None
    addition = follows.why if isinstance(follows, GiveUp) else follows.change
    saved = newest.step if newest and checkpoint.is_there(newest) else None
    entry = ledger.failure(run, cause, follows.counted, addition, step, now, saved)
    after = status.between_attempts(observed, ledger.entered(before, entry), health.after_attempt(entry))
    if isinstance(follows, Restart):
        avoid = bad_nodes(after.ledger, run.number, spec.fault_tolerance, now)
        active = active_seconds(run, observed.pods, now)
        following = next_attempt(before, run, follows, avoid, active, observed.nonce, now)
        following = with_config_digest(observed.job, following, settings)
        after = after.model_copy(update={"run": following, "progress": None})
        if spec.suspend and cause.failure is FailureClass.SUSPENDED:
            return Decision(
                _as_suspending(observed, after, run, sum(pod.present for pod in observed.pods)), look_again=0
            )
        when = f" in {duration(follows.delay)}" if follows.delay else " now"
        when = " when spec.suspend is false" if spec.suspend else when
        words = {"attempt": following.attempt, "run": run.number, "when": when, "start": checkpoint.start(newest)}
        words["detail"] = ledger.described(entry)
        after = status.in_phase(observed, after, Phase.RESTARTING, constants.RESTARTING, **words)
        must_go = observed.child and not observed.child.deleted and not stops_by_itself(observed.pods)
        delete = _name(observed, run) if must_go else None
        if cause.failure is FailureClass.SUSPENDED or not _may_follow_at_once(observed, following):
            return Decision(after, delete_job=delete, look_again=0)
        return Decision(after, delete_job=delete, create_children=True, look_again=settings.waiting_interval)
    after = after.model_copy(update={"run": _ended(observed, run, release=True)})
    return Decision(status.as_failed(observed, after, entry), look_again=0)


def _may_follow_at_once(observed: Observed, following: RunStatus) -> bool:
    """Whether an attempt waits for nothing: no delay, nobody who wants the job suspended, no pod that may hold its
    claim (several nodes have one that they share), and its spec is known."""
    waits = observed.job.spec.suspend or following.not_before or observed.spec_lost
    ended = observed.child and all(pod.ended_or_gone for pod in observed.pods)
    return not waits and bool(following.nodes > 1 or ended)


def _end_as_success(observed: Observed, run: RunStatus, result: Result) -> Decision:
    newest = checkpoint.last(observed.pods, observed.job.status.checkpoint)
    before = observed.job.status.model_copy(update={"checkpoint": newest})
    entry = ledger.success(run, result.step, observed.now)
    after = status.with_result(ledger.entered(before, entry), result)
    after = status.between_attempts(observed, after.model_copy(update={"run": _ended(observed, run, release=False)}))
    return Decision(status.as_complete(observed, after, run, status.result_of(result)), look_again=0)


def _ended(observed: Observed, run: RunStatus, release: bool) -> RunStatus:
    """`release`: pods that are still alive, or that a quota or a queue has kept back, must go; those that have ended
    stay for their logs."""
    job_uid = observed.child.uid if observed.child else run.job_uid
    alive = any(pod.present and pod.exit_code is None and pod.phase != "Failed" for pod in observed.pods)
    child = observed.child
    awaited = child is not None and not child.succeeded and not has_failed(child, observed.pods)
    # If it is not `edited`, what was changed in the spec meanwhile held at once.
    generation = run.generation if observed.edited else observed.job.metadata.generation
    update = {"job_uid": job_uid, "release": release and (alive or awaited), "generation": generation}
    return run.model_copy(update={"completion_time": to_text(observed.now), **update})
