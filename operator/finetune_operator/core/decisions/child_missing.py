"""Handles a deleted ConfigMap, Service or NetworkPolicy of an attempt that goes on.

Without the ConfigMap, pods that have not started yet wait forever; without the Service, they do not find rank 0; and
without the NetworkPolicy, anybody can reach them. A child is created again if its content is still the same. Otherwise
the attempt ends and another one follows with children of its own, unless no pod needs the content.
"""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.decisions.attempt_ends import end_as_failure
from finetune_operator.core.decisions.decision import Decision
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.transitions import note
from finetune_trainer.contract import FailureClass


def make_again(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Create the missing children again, or end the attempt if a needed one cannot be created again.

    An attempt that ends for this reason is not counted.
    """
    lost = [child for child in observed.missing if not child.can_be_made]
    for child in lost:
        if _is_needed(child, observed, run):
            message = (
                f"{child.kind} {child.name} was deleted, and the same one cannot be made again, because the spec or "
                "the operator's configuration has changed since; the next attempt gets one of its own"
            )
            return end_as_failure(observed, run, Cause(FailureClass.PREEMPTED, message), settings)
    words = {"attempt": run.attempt, "run": run.number}
    return Decision(
        make_again=tuple(child for child in observed.missing if child.can_be_made),
        notes=tuple(note(constants.NOT_MADE_AGAIN, kind=child.kind, name=child.name, **words) for child in lost),
    )


def _is_needed(child: MissingChild, observed: Observed, run: RunStatus) -> bool:
    """Return whether a pod still needs the child.

    A ConfigMap is needed until all pods have started: it is mounted before a container starts, and what is mounted
    stays when the object is deleted. The other kinds are needed at all times.
    """
    started = sum(pod.running or pod.exit_code is not None for pod in observed.pods)
    return child.kind != "ConfigMap" or started < run.nodes
