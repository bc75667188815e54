"""Why an attempt failed: one cause out of what all its pods left behind.

The first to fail says why; rank 0, and whoever waited for the one that failed, show symptoms. The Job controller stops
the siblings of a failed pod, so a pod that says 75 (stopped on request) is the cause only if the cluster took it away
first.
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
    """What goes into the ledger."""

    failure: FailureClass
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str | None = None
    pod: str | None = None
    step: int | None = None
    rows: tuple[str, ...] = ()
    """Ids of rows whose loss or gradient was not finite."""
    slowest_rank: int | None = None
    """For which the others waited, when it hung."""
    log: tuple[str, ...] = ()


def has_failed(child: JobView, pods: tuple[PodView, ...]) -> bool:
    """Return whether an attempt is lost.

    It is lost if its Job says so or is being deleted, or if a pod has failed or is being deleted: the Job itself says
    the latter only when the pod has ended, up to its whole grace period later. The pods of a suspended Job are deleted
    by the Job controller, which is not a failure.
    """
    if child.failure or child.deleted:
        return True
    if child.suspended:
        return any(pod.failed for pod in pods) and not any(pod.deleted for pod in pods)
    return any(pod.failed or (pod.deleted and pod.exit_code != 0) for pod in pods)


def stops_by_itself(pods: Iterable[PodView]) -> bool:
    """Return whether the Job controller ends an attempt's other pods: one has failed, and stays for its log.

    A pod that another container keeps running has not failed for the Job controller.
    """
    return any(pod.failed and pod.present and pod.deleted is None and not pod.outlives_trainer for pod in pods)


def seconds_to_wait(child: JobView, pods: tuple[PodView, ...], now: datetime, settle: float) -> float:
    """For the words of pods that are about to end: the one who says why may be last. 0 or less: not any more.

    A pod that is gone says no more, but how it went may be told only now: watches do not wait for each other. One that
    failed without a word was killed with all that was in it: what others could say is what it did to them.
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
    """The cause of a failed attempt, each of whose pods runs so many ranks."""
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
    # Within one second nobody can tell whether a pod was deleted before the Job failed. If all others only noticed that
    # somebody was gone, it is the one that says it was stopped.
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
    """The controller answers a deletion with others within the same second."""
    return _taken_at(pod), pod.deletion_version


def _whole_second(time: datetime) -> datetime:
    """The API's times are whole seconds, so within one second the pod's own word counts."""
    return time.replace(microsecond=0)


def _stopped_by_controller(pod: PodView, child: JobView | None) -> bool:
    return bool(child and child.failure and pod.deleted and pod.deleted >= child.failure)


def _stopped(pod: PodView, child: JobView | None) -> bool:
    """Ended because it was told to: by the agent's stop request, or by the signals of the controller's deletion."""
    if pod.told_code == ExitCode.PREEMPTED:
        return True
    return pod.message is None and _stopped_by_controller(pod, child) and pod.exit_code in (_SIGKILLED, _SIGTERMED)


def _taken(pod: PodView) -> Cause:
    return _preempted(pod, f"pod {pod.name} was taken away: {pod.disrupted or 'deleted'}")


def _as_job_says(verdict: JobVerdict) -> Cause:
    """The cause that the Job's condition gives, when every pod that could say more is gone."""
    if verdict.exit_code is None:
        message = f"pod {verdict.pod} was taken away, as its Job says; the pod is gone"
        return Cause(FailureClass.PREEMPTED, message, pod=verdict.pod)
    message = f"pod {verdict.pod} ended with exit code {verdict.exit_code}, as its Job says; the pod is gone"
    # A signal may have ended a pod that somebody deleted as well as one that failed, for example for want of memory.
    killed = verdict.exit_code in (_SIGKILLED, _SIGTERMED)
    failure = FailureClass.UNKNOWN if killed else class_of(verdict.exit_code)
    return Cause(failure, message, verdict.exit_code, pod=verdict.pod)


def _preempted(pod: PodView, message: str) -> Cause:
    step = pod.message.step if pod.message else None
    return Cause(FailureClass.PREEMPTED, message, pod.exit_code, None, pod.node, pod.name, step)


def _exceeded(pod: PodView) -> Cause:
    """The cause that a pod's own excess is, whatever it said when it was stopped for it. No node is named: the pod
    would have been evicted on any other, too."""
    message = f"pod {pod.name} was evicted because it {pod.excess}"
    step = pod.message.step if pod.message else None
    return Cause(FailureClass.INFRASTRUCTURE, message, pod.exit_code, None, None, pod.name, step)


def _failed(pod: PodView, blamed: PodView | None) -> Cause:
    """The cause that one pod's message gives. `blamed` is the pod of which it speaks; None if that one is not known."""
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
