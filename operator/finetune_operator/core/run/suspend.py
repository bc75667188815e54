"""spec.suspend: a run gives its nodes back and goes on later; the attempt that was stopped is not counted."""

from __future__ import annotations

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.observed.views import JobView, PodView
from finetune_trainer.contract import FailureClass


def by_user(run: RunStatus) -> Cause:
    """Why the attempt ends when spec.suspend becomes true."""
    return Cause(FailureClass.SUSPENDED, f"attempt {run.attempt} was stopped by spec.suspend")


def by_another(child: JobView, pods: tuple[PodView, ...]) -> Cause | None:
    """A Job that is found suspended after its pods had started was suspended by a queue, as Kueue preempts. One that
    has not started yet waits its turn in the queue."""
    if child.suspended and any(pod.scheduled_at for pod in pods):
        return Cause(FailureClass.SUSPENDED, "its Job was suspended by someone else, as a queue does to preempt it")
    return None
