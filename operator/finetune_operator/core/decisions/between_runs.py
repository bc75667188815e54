"""Decides what happens while no run goes on: old children are deleted, and a needed run starts."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.decisions.decision import Decision, attempt_name, blocked, stall_job, suspending
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run import volume
from finetune_operator.core.run.resolve import refusals, storage_claim
from finetune_operator.core.run.retrain import next_run, run_is_needed
from finetune_operator.core.run.ttl import seconds_left
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.core.status import written as status


def at_rest(observed: Observed, run: RunStatus | None, settings: Settings) -> Decision:
    """Return the next step of a job that has no unfinished run."""
    job = observed.job
    child = observed.child if observed.child and observed.child.owner_uid == job.metadata.uid else None
    if run and run.release and child and not child.deleted:
        return Decision(delete_job=attempt_name(observed, run), look_again=0)
    left = seconds_left(run, job.spec.ttl_seconds_after_finished, observed.now) if run else None
    if observed.leftover and left is not None and left <= 0:
        return Decision(delete_children=True, delete_policies=True, look_again=0)
    later = left if left is not None and left > 0 else None
    if run_is_needed(job):
        if job.spec.suspend and run and observed.remaining:
            return suspending(observed, run)
        if job.spec.suspend:
            suspended = Decision(status.as_suspended(observed, job.status, "nothing runs"), look_again=later)
            return _unfit(observed, settings) or suspended
        return start_run(observed, settings, number=run.number + 1 if run else 1)
    assert run is not None
    return Decision(_settled(observed, run), look_again=later)


def _settled(observed: Observed, run: RunStatus) -> FineTuneJobStatus | None:
    """Return the status of a job that needs no training: the end of its newest run, at the job's newest generation.

    The report of a fault may have replaced that end in the status.
    """
    run = run.model_copy(update={"generation": observed.job.metadata.generation})
    now = observed.job.status.model_copy(update={"run": run})
    if now.result:
        return status.as_complete(observed, now, run)
    entry = ledger.last_failure(now)
    return status.as_failed(observed, now, entry) if entry else None


def _unfit(observed: Observed, settings: Settings) -> Decision | None:
    """Stall the job if its spec cannot be used.

    A suspended job is checked too, because a user who edits it needs to see the fault at once.
    """
    sentences = refusals(observed.job.spec, settings)
    return stall_job(observed, constants.INVALID_SPEC, detail="; ".join(sentences)) if sentences else None


def start_run(observed: Observed, settings: Settings, number: int) -> Decision:
    """Start a run with that number, unless the spec or a claim cannot be used."""
    job = observed.job
    if unfit := _unfit(observed, settings):
        return unfit
    nodes = job.spec.resources.nodes
    found = volume.obstacle(job.spec, storage_claim(job.spec, settings.claim), nodes, observed.claims)
    # A claim that is being deleted only goes once no pod uses it, and the ended pods of the previous run still do.
    if found and not (observed.leftover and found.reason == constants.CLAIM_BEING_DELETED):
        return blocked(observed, found, nodes)
    if observed.leftover:
        # Once there is another run, the names of these children no longer follow from the status.
        return Decision(delete_children=True, look_again=0)
    run = next_run(job, number, settings, observed.nonce, observed.now)
    nothing = dict.fromkeys(("progress", "checkpoint", "facts", "evaluation", "result"))
    now = job.status.model_copy(update={"run": run, **nothing})
    now = status.between_attempts(observed, status.in_phase(observed, now, Phase.PENDING, constants.PENDING, detail=""))
    if number > 1:  # pods of the previous run may hold the claim
        return Decision(now, look_again=0)
    return Decision(now, create_children=True, look_again=settings.waiting_interval)
