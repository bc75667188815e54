"""What one reconcile decides to do, and the decisions that any rule may come to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import Phase, Reason
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.run.volume import Obstacle
from finetune_operator.core.status import written as status
from finetune_operator.core.status.transitions import Note

LOOK_AT_CLAIM = 5.0
"""Seconds between two looks at a claim that is waited for."""


@dataclass(frozen=True)
class Decision:
    """What a reconcile does, in this order: write the status if it differs, delete, and make children."""

    status: FineTuneJobStatus | None = None
    create_children: bool = False
    create_look_job: bool = False
    """Make the Job that reads an attempt's result from the workspace."""
    make_again: tuple[MissingChild, ...] = ()
    """Children that the attempt has lost; what else is to be done is decided afterwards."""
    notes: tuple[Note, ...] = ()
    """Events about those that are not made again, though the attempt goes on."""
    delete_job: str | None = None
    """Name of an attempt's Job, whose pods are to go."""
    free_claim: bool = False
    """Delete the Jobs of the attempts before, whose ended pods would hold a claim that is being deleted."""
    delete_children: bool = False
    """All children of the newest run."""
    delete_policies: bool = False
    """And with them the job's NetworkPolicies, which no pod needs any more."""
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


def blocked(observed: Observed, found: Obstacle, nodes: int) -> Decision:
    """The next attempt cannot mount a claim. One that may come by itself is waited for, as an attempt waits; what must
    be changed stalls the job."""
    job, run = observed.job, observed.job.status.run
    begins = run is None or run.completion_time is not None or run.attempt == 1
    words = {
        "field": found.field,
        "claim": found.claim,
        "namespace": job.metadata.namespace,
        "modes": found.modes,
        "wanted": found.wanted,
        "nodes": nodes,
        # The claim of a run that has trained is the run's to its end.
        "or_another": " or name another one" if begins else "",
    }
    if not found.may_pass:
        return stall_job(observed, found.reason, **words)
    phase = Phase.PENDING if begins else Phase.RESTARTING
    waiting = status.in_phase(observed, job.status, phase, found.reason, **words)
    held = not begins and found.reason == constants.CLAIM_BEING_DELETED
    return Decision(waiting, free_claim=held, look_again=LOOK_AT_CLAIM)
