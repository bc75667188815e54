"""The causes of a suspension: the run releases its nodes and goes on later, and the stopped attempt is not counted."""

from __future__ import annotations

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.observed.views import JobView, PodView
from finetune_trainer.contract import FailureClass


def by_user(run: RunStatus) -> Cause:
    """Return the cause with which the attempt ends when spec.suspend becomes true."""
    return Cause(FailureClass.SUSPENDED, f"attempt {run.attempt} was stopped by spec.suspend")


def by_another(child: JobView, pods: tuple[PodView, ...]) -> Cause | None:
    """Return the cause if a queue has suspended the Job after a pod had a node, as Kueue does to preempt it.

    A suspended Job none of whose pods had a node waits its turn in the queue.
    """
    if child.suspended and any(pod.scheduled_at for pod in pods):
        return Cause(FailureClass.SUSPENDED, "its Job was suspended by someone else, as a queue does to preempt it")
    return None
