"""The attempt goes on, and somebody has deleted its ConfigMap, its Service or the NetworkPolicy of its pods.

Without the ConfigMap, pods that have not started yet wait for ever; without the Service, they do not find rank 0; and
without the NetworkPolicy, everybody can reach them. What can be made again is made again. Where the same content cannot
be had any more, the attempt ends and another one follows with children of its own, unless no pod needs the content.
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
    """Make the missing children again; or end the attempt, which is not counted, if one of them cannot be made again
    and is still needed."""
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
    """Return whether a pod still needs the child. A ConfigMap is mounted before a container starts, and what is mounted
    stays when the object goes; a NetworkPolicy is needed at all times."""
    started = sum(pod.running or pod.exit_code is not None for pod in observed.pods)
    return child.kind != "ConfigMap" or started < run.nodes
