"""Determines why an attempt failed: one cause, from everything that its pods left behind.

The pod that failed first knows the cause; rank 0 and the ranks that waited for the failed one only show symptoms. The
Job controller stops the siblings of a failed pod, so a pod with exit code 75 (stopped on request) is the cause only if
the cluster took it away before another pod failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_operator.core.attempt.culprit import culprit, only_heard
from finetune_operator.core.observed.job_verdict import JobVerdict, job_verdict
from finetune_operator.core.observed.views import JobView, PodView
from finetune_operator.core.times import from_seconds
from finetune_trainer.contract import ExitCode, FailureClass, class_of

_SIGKILLED, _SIGTERMED = 137, 143
_LATE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Cause:
    """The cause of a failed attempt, as it is entered in the ledger."""

    failure: FailureClass
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str | None = None
    pod: str | None = None
    step: int | None = None
    rows: tuple[str, ...] = ()
    """The ids of rows whose loss or gradient was not finite."""
    slowest_rank: int | None = None
    """The rank that the others waited for when the attempt hung."""
    log: tuple[str, ...] = ()


def has_failed(child: JobView, pods: tuple[PodView, ...]) -> bool:
    """Return whether an attempt has failed.

    It has failed if its Job has failed or is being deleted, or if a pod has failed or is being deleted. The Job itself
    reports a deleted pod only once that pod has ended, up to its whole grace period later. The pods of a suspended Job
    are deleted by the Job controller, which is not a failure.
    """
    if child.failure or child.deleted:
        return True
    if child.suspended:
        return any(pod.failed for pod in pods) and not any(pod.deleted for pod in pods)
    return any(pod.failed or (pod.deleted and pod.exit_code != 0) for pod in pods)


def stops_by_itself(pods: Iterable[PodView]) -> bool:
    """Return whether the Job controller ends the attempt's other pods because one has failed.

    The failed pod stays for its log. A pod that another container keeps running has not failed for the Job controller.
    """
    return any(pod.failed and pod.present and pod.deleted is None and not pod.outlives_trainer for pod in pods)


def seconds_to_wait(child: JobView, pods: tuple[PodView, ...], now: datetime, settle: float) -> float:
    """Return the seconds to wait for the messages of pods that are about to end; 0 or less if none is awaited.

    The pod that knows the cause may be the last to end. A pod that no longer exists reports nothing more, but the event
    about its end may arrive late, because watches do not wait for each other. A pod that failed without a message was
    killed with all its processes, and the other pods could only report the effects.
    """
    if child.deleted:
        return 0
    if child.failure is None and any(pod.failed and pod.exit_code and pod.message is None for pod in pods):
        return 0
    untold = (pod for pod in pods if pod.exit_code is None and not pod.disrupted and not pod.on_lost_node)
    if not any(pod.present or (pod.scheduled and pod.deleted is None) for pod in untold):
        return 0
    began = [time for time in (child.failure, *(pod.ended for pod in pods if pod.failed)) if time]
    return settle - (now - min(began)).total_seconds() if began else 0


def cause_of(child: JobView | None, pods: Iterable[PodView], ranks_per_pod: int = 1) -> Cause:
    """Return the cause of a failed attempt whose pods run `ranks_per_pod` ranks each."""
    pods = list(pods)
    taken = [p for p in pods if p.disrupted or (p.deleted and not _stopped_by_controller(p, child))]
    if exceeded := next((p for p in pods if p.excess and p not in taken), None):
        return _exceeded(exceeded)
    failed = [p for p in pods if p.failed and p not in taken and not _stopped(p, child)]
    first_failed = min(failed, key=_failed_at, default=None)
    first_taken = min(taken, key=_taken_at, default=None)
    if first_taken and (first_failed is None or _taken_at(first_taken) < _whole_second(_failed_at(first_failed))):
        return _taken(first_taken)
    stopped = min((p for p in pods if p.told_code == ExitCode.PREEMPTED or p.deleted), key=_stopped_at, default=None)
    # The API's times are whole seconds, so within one second it is unknown whether a pod was deleted before the Job
    # failed. If all other pods only noticed that a pod was gone, the cause is the pod that reports it was stopped.
    noticed = (
        first_failed and _failed_at(first_failed) == _LATE and any(p.told_code == ExitCode.PREEMPTED for p in pods)
    )
    if first_failed and not noticed:
        return _failed(first_failed, culprit(first_failed, pods, ranks_per_pod))
    verdict = job_verdict(child.failure_message) if child else None
    if verdict and not any(pod.name == verdict.pod and pod.exit_code is not None for pod in pods):
        return _as_job_says(verdict)
    if stopped:
        return _preempted(stopped, f"pod {stopped.name} was stopped")
    if child is None:
        return Cause(FailureClass.UNKNOWN, "its Job was deleted, and nothing is known of its pods' ends")
    return Cause(FailureClass.UNKNOWN, f"nothing is known of its pods' ends ({child.failure_message or 'no message'})")


def _failed_at(pod: PodView) -> datetime:
    told = from_seconds(pod.message.error_time) if pod.message and pod.message.error_time else None
    return told or (_LATE if only_heard(pod) else pod.ended) or _LATE


def _taken_at(pod: PodView) -> datetime:
    return pod.deleted or pod.ended or _LATE


def _stopped_at(pod: PodView) -> tuple[datetime, int]:
    """Return when a pod was stopped and the version that orders deletions within a second.

    The Job controller answers a deletion with further deletions within the same second.
    """
    return _taken_at(pod), pod.deletion_version


def _whole_second(time: datetime) -> datetime:
    """Return a time in whole seconds.

    The API's times have no fractions, so within one second the time that the pod reported takes precedence.
    """
    return time.replace(microsecond=0)


def _stopped_by_controller(pod: PodView, child: JobView | None) -> bool:
    return bool(child and child.failure and pod.deleted and pod.deleted >= child.failure)


def _stopped(pod: PodView, child: JobView | None) -> bool:
    """Return whether a pod ended because it was asked to stop.

    Either its agent reports a stop request, or the signals of the controller's deletion ended it.
    """
    if pod.told_code == ExitCode.PREEMPTED:
        return True
    return pod.message is None and _stopped_by_controller(pod, child) and pod.exit_code in (_SIGKILLED, _SIGTERMED)


def _taken(pod: PodView) -> Cause:
    return _preempted(pod, f"pod {pod.name} was taken away: {pod.disrupted or 'deleted'}")


def _as_job_says(verdict: JobVerdict) -> Cause:
    """Return the cause that the Job's condition gives, when every pod that could report more is gone."""
    if verdict.exit_code is None:
        message = f"pod {verdict.pod} was taken away, as its Job says; the pod is gone"
        return Cause(FailureClass.PREEMPTED, message, pod=verdict.pod)
    message = f"pod {verdict.pod} ended with exit code {verdict.exit_code}, as its Job says; the pod is gone"
    # A signal ends a pod that was deleted as well as one that failed, for example because memory ran out.
    killed = verdict.exit_code in (_SIGKILLED, _SIGTERMED)
    failure = FailureClass.UNKNOWN if killed else class_of(verdict.exit_code)
    return Cause(failure, message, verdict.exit_code, pod=verdict.pod)


def _preempted(pod: PodView, message: str) -> Cause:
    step = pod.message.step if pod.message else None
    return Cause(FailureClass.PREEMPTED, message, pod.exit_code, None, pod.node, pod.name, step)


def _exceeded(pod: PodView) -> Cause:
    """Return the cause for a pod that was evicted because it exceeded its own limits.

    It takes precedence over what the pod reported when it was stopped. No node is named, because the pod would have
    been evicted from any other node too.
    """
    message = f"pod {pod.name} was evicted because it {pod.excess}"
    step = pod.message.step if pod.message else None
    return Cause(FailureClass.INFRASTRUCTURE, message, pod.exit_code, None, None, pod.name, step)


def _failed(pod: PodView, blamed: PodView | None) -> Cause:
    """Return the cause that a failed pod's message gives.

    `blamed` is the pod that the message is about; None if that pod is not known.
    """
    word = pod.message
    code = pod.told_code
    if pod.reason == "OOMKilled":
        failure = FailureClass.OUT_OF_MEMORY
    elif code is None:
        failure = FailureClass.INFRASTRUCTURE
    else:
        failure = class_of(code)
    reason = pod.reason or "no reason given"
    if word and word.error:
        message = word.error
    elif pod.reason == "OOMKilled":
        message = f"pod {pod.name} was ended because it took more memory than resources.memory; give it more"
    elif code is None:
        message = f"pod {pod.name} failed: {reason}"
    else:
        message = f"pod {pod.name} ended with exit code {code} ({reason}) and said no more"
    if blamed and blamed.uid != pod.uid and blamed.message is None:
        message = f"{message.removesuffix('.')}; pod {blamed.name} on node {blamed.node} has left no word"
    rank = word.failing_rank if word and blamed is pod else None
    return Cause(
        failure,
        message,
        code,
        word.slowest_rank if word and word.slowest_rank is not None else rank,
        blamed.node if blamed else None,
        blamed.name if blamed else None,
        word.step if word else None,
        word.rows if word else (),
        word.slowest_rank if word else None,
        word.log if word else (),
    )
