"""Reports on an attempt that has a Job and that nothing ends."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.attempt import checkpoint, facts
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.attempt.deadline import Late, overdue
from finetune_operator.core.decisions.attempt_ends import end_as_failure
from finetune_operator.core.decisions.decision import Decision, attempt_name
from finetune_operator.core.observed.views import UNSCHEDULABLE, Observed, PodView
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import conditions, health, progress
from finetune_operator.core.status import written as status

_REASONS = {
    UNSCHEDULABLE: constants.UNSCHEDULABLE,
    "ErrImagePull": constants.IMAGE_NOT_PULLED,
    "ImagePullBackOff": constants.IMAGE_NOT_PULLED,
    "InvalidImageName": constants.IMAGE_NOT_PULLED,
    "CreateContainerConfigError": constants.CONTAINER_NOT_CREATED,
    "CreateContainerError": constants.CONTAINER_NOT_CREATED,
}
"""The condition's reason for each reason that a waiting pod gives."""


def report(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Report the progress of the attempt, or end it if a deadline has passed."""
    assert observed.child is not None
    before = observed.job.status
    reported = conditions.is_true(before.conditions, ConditionType.WORLD_READY)
    tolerance = observed.job.spec.fault_tolerance
    created, heard = observed.child.created, progress.attested_pods(run, observed.answers)
    late = overdue(run, tolerance, observed.pods, reported, observed.refused, observed.now, created, heard)
    if isinstance(late, Late):
        cause = Cause(late.failure, late.message, node=late.node, pod=late.pod)
        return end_as_failure(observed, run, cause, settings)
    seen = {"job_uid": observed.child.uid, "image_id": run.image_id or _image_id(observed.pods)}
    now = before.model_copy(update={"run": run.model_copy(update=seen)})
    answers = list(observed.answers.values())
    if not reported:
        if not progress.world_complete(run, answers):
            interval = progress.seconds_to_next_look(run, observed.all_run, observed.now, settings)
            soon = min(interval, late.seconds or interval)
            # The Job of the previous attempt may be using up the quota.
            delete = attempt_name(observed, run, before=1) if observed.refused and run.attempt > 1 else None
            return Decision(_waiting(observed, now, run), delete_job=delete, look_again=soon, is_report=True)
        now = status.world_ready(observed, now, run)
    phase = progress.phase_of(answers, Phase(now.phase) if now.phase in set(Phase) else Phase.STARTING)
    made = progress.progress_of(run, answers, observed.pods, now.progress)
    newest = checkpoint.newest(answers, now.checkpoint)
    found = facts.from_answers(answers, now.facts)
    now = now.model_copy(update={"progress": made, "checkpoint": newest, "facts": found})
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
    """Report why not every rank has reported yet: what keeps a pod from running, or how many pods run."""
    running = sum(pod.running for pod in observed.pods)
    scheduled = any(pod.scheduled for pod in observed.pods)
    phase = Phase.STARTING if scheduled else Phase.PENDING
    if stuck := _stuck(observed):
        reason, detail = stuck
        return status.in_phase(observed, now, phase, reason, running=running, pods=run.nodes, detail=detail)
    if not scheduled:
        return status.in_phase(observed, now, phase, constants.PENDING, detail="")
    if running < run.nodes and progress.starts_now(observed.pods, observed.now):
        return observed.job.status
    ready = len(progress.attested(run, observed.answers.values()))
    words = {"running": running, "pods": run.nodes, "ready": ready, "world": run.world, "detail": ""}
    reason = constants.STARTING if running < run.nodes else constants.PODS_RUNNING
    return status.in_phase(observed, now, phase, reason, **words)


def _stuck(observed: Observed) -> tuple[Reason, str] | None:
    """Return the reason and the detail of what keeps the attempt from starting, if it is known."""
    for pod in observed.pods:
        if pod.waiting and pod.present:
            return _REASONS.get(pod.waiting_reason or "", constants.UNSCHEDULABLE), f"pod {pod.name}: {pod.waiting}"
    if observed.refused:
        return constants.PODS_REFUSED, observed.refused
    if observed.child and observed.child.suspended:
        return constants.QUEUED, "its Job is suspended until a queue has room for it"
    return None
