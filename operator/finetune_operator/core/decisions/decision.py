"""Defines what one reconcile decides to do, and the decisions that several rules share."""

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
"""Seconds between two reconciles while a claim is waited for."""


@dataclass(frozen=True)
class Decision:
    """The actions of one reconcile, in this order: write the status if it differs, delete, create children."""

    status: FineTuneJobStatus | None = None
    create_children: bool = False
    create_look_job: bool = False
    """Whether to create the Job that reads an attempt's result from the workspace."""
    make_again: tuple[MissingChild, ...] = ()
    """The lost children to create again; the rest is decided afterwards."""
    notes: tuple[Note, ...] = ()
    """The events about lost children that are not created again although the attempt goes on."""
    delete_job: str | None = None
    """The name of the attempt's Job to delete, with its pods."""
    free_claim: bool = False
    """Whether to delete the Jobs of earlier attempts, whose ended pods would hold a claim that is being deleted."""
    delete_children: bool = False
    """Whether to delete all children of the newest run."""
    delete_policies: bool = False
    """Whether to delete the job's NetworkPolicies with them, because no pod needs them any more."""
    look_again: float | None = None
    """Seconds until the next reconcile; None if only a change causes one."""
    is_report: bool = False
    """Whether the decision only reports on an attempt that goes on."""


def stall(before: FineTuneJobStatus, generation: int, now: datetime, reason: Reason, **words: object) -> Decision:
    """Report that the job cannot go on until somebody acts; it is tried again in a minute."""
    return Decision(status.stalled(before, generation, now, reason, **words), look_again=60)


def stall_job(observed: Observed, reason: Reason, **words: object) -> Decision:
    """Stall the observed job at its newest generation."""
    return stall(observed.job.status, observed.job.metadata.generation, observed.now, reason, **words)


def attempt_name(observed: Observed, run: RunStatus, before: int = 0) -> str:
    """Return the name of the children of a run's attempt, or of the attempt that is `before` numbers earlier."""
    return child_name(observed.job.metadata.name, observed.job.metadata.uid, run.number, run.attempt - before)


def suspending(observed: Observed, run: RunStatus) -> Decision:
    """Report that the job is being suspended while pods of it still exist."""
    return Decision(status.as_suspending(observed, observed.job.status, run, len(observed.remaining)), look_again=1)


def blocked(observed: Observed, found: Obstacle, nodes: int) -> Decision:
    """Report that the next attempt cannot mount a claim.

    The attempt waits for a claim that may become usable by itself; if an edit is needed, the job stalls.
    """
    job, run = observed.job, observed.job.status.run
    begins = run is None or run.completion_time is not None or run.attempt == 1
    words = {
        "field": found.field,
        "claim": found.claim,
        "namespace": job.metadata.namespace,
        "modes": found.modes,
        "wanted": found.wanted,
        "nodes": nodes,
        # After its first attempt, a run keeps its claim to its end.
        "or_another": " or name another one" if begins else "",
    }
    if not found.may_pass:
        return stall_job(observed, found.reason, **words)
    phase = Phase.PENDING if begins else Phase.RESTARTING
    waiting = status.in_phase(observed, job.status, phase, found.reason, **words)
    held = not begins and found.reason == constants.CLAIM_BEING_DELETED
    return Decision(waiting, free_claim=held, look_again=LOOK_AT_CLAIM)
