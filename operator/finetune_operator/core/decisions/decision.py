"""What one reconcile decides to do, and the decisions that any rule may come to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import Reason
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.status import written as status
from finetune_operator.core.status.transitions import Note


@dataclass(frozen=True)
class Decision:
    """What a reconcile does, in this order: write the status if it differs, delete, and make children."""

    status: FineTuneJobStatus | None = None
    create_children: bool = False
    make_again: tuple[MissingChild, ...] = ()
    """Children that the attempt has lost; what else is to be done is decided afterwards."""
    notes: tuple[Note, ...] = ()
    """Events about those that are not made again, though the attempt goes on."""
    delete_job: str | None = None
    """Name of an attempt's Job, whose pods are to go."""
    delete_children: bool = False
    """All children of the newest run."""
    delete_policy: bool = False
    """And with them the job's NetworkPolicy, which no pod needs any more."""
    look_again: float | None = None
    """Seconds; None: when something changes."""
    is_report: bool = False
    """Nothing is decided but what the status says of an attempt that goes on."""


def stall(before: FineTuneJobStatus, generation: int, now: datetime, reason: Reason, **words: object) -> Decision:
    """Nothing goes on until somebody acts: say why. It is tried again in a minute."""
    return Decision(status.stalled(before, generation, now, reason, **words), look_again=60)


def stall_job(observed: Observed, reason: Reason, **words: object) -> Decision:
    """The same for the job that was observed, at its newest generation."""
    return stall(observed.job.status, observed.job.metadata.generation, observed.now, reason, **words)


def attempt_name(observed: Observed, run: RunStatus, before: int = 0) -> str:
    """The name of the children of a run's attempt, or of the attempt that many numbers before it."""
    return child_name(observed.job.metadata.name, observed.job.metadata.uid, run.number, run.attempt - before)


def suspending(observed: Observed, run: RunStatus) -> Decision:
    """The job is to be suspended, and pods of it are still there."""
    return Decision(status.as_suspending(observed, observed.job.status, run, len(observed.remaining)), look_again=1)


def volume_not_shared(observed: Observed, claim: str, nodes: int) -> Decision:
    """Pods of several nodes are to mount a claim that one node at a time can mount."""
    modes = ", ".join(observed.claim_modes or ())
    return stall_job(observed, constants.VOLUME_NOT_SHARED, claim=claim, modes=modes, nodes=nodes)
