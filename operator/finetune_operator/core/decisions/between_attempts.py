"""Decides when an attempt that has no Job yet starts: it is suspended, waits for something, or starts now."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.attempt.restart import ON_REQUEST
from finetune_operator.core.attempt.stopping import seconds_until_stopped
from finetune_operator.core.decisions.between_runs import start_run
from finetune_operator.core.decisions.decision import LOOK_AT_CLAIM, Decision, blocked, suspending
from finetune_operator.core.observed.views import Observed, PodView
from finetune_operator.core.run import volume
from finetune_operator.core.run.resolve import run_config, with_config_digest
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.core.status import written as status
from finetune_operator.core.times import from_text


def suspended(observed: Observed, run: RunStatus) -> Decision:
    """Report that the job is suspended; the next attempt starts when spec.suspend is false."""
    before = observed.job.status
    if observed.remaining:
        return suspending(observed, run)
    before = before.model_copy(update={"run": run.model_copy(update={"not_before": None})})
    return Decision(
        status.as_suspended(observed, before, f"attempt {run.attempt} of run {run.number} starts when it is false")
    )


def create(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Start the attempt once its delay is over, its claims can be mounted, and earlier pods have saved."""
    if run_config(observed.job, run, settings).digest != run.config_digest:  # the operator's defaults changed
        if run.attempt == 1:
            return start_run(observed, settings, number=run.number + 1)
        again = run.model_copy(update={"attempt": run.attempt + 1, "nonce": observed.nonce})
        again = with_config_digest(observed.job, again, settings)
        return Decision(observed.job.status.model_copy(update={"run": again}), look_again=0)
    if run.not_before and (wait := (from_text(run.not_before) - observed.now).total_seconds()) > 0:
        return Decision(look_again=wait)
    begins = run.attempt == 1
    if found := volume.obstacle(observed.job.spec, run.claim_name, run.nodes, observed.claims, begins):
        return blocked(observed, found, run.nodes)
    if holder := volume.holder(observed.remaining, observed.claims, run.claim_name):
        return _volume_attached(observed, run, holder)
    if (wait := _seconds_until_saved(observed, settings)) > 0:
        return Decision(look_again=min(1.0, wait))
    return Decision(create_children=True, look_again=settings.waiting_interval)


def _seconds_until_saved(observed: Observed, settings: Settings) -> float:
    """Return the seconds to wait until the pods of an attempt that was suspended or edited have saved.

    Such an attempt ends when its pods are asked to stop, and the next one begins with what they save. The request
    reaches the pods a moment after their Job was deleted, so the operator waits a few seconds for it.
    """
    entry = ledger.last_failure(observed.job.status)
    if entry is None or entry.class_ not in ON_REQUEST:
        return 0
    asking = settings.settle - (observed.now - from_text(entry.end_time)).total_seconds()
    unasked = any(pod.running and pod.deleted is None for pod in observed.remaining)
    saving = seconds_until_stopped(observed.remaining, settings.settle, observed.now)
    return max(asking, saving) if unasked else saving


def _volume_attached(observed: Observed, run: RunStatus, holder: PodView) -> Decision:
    claim = observed.claims.get(run.claim_name) if observed.claims else None
    words = {
        "attempt": run.attempt,
        "run": run.number,
        "claim": run.claim_name,
        "modes": ", ".join(claim.modes if claim else ()),
        "pod": holder.name,
        "node": holder.node,
    }
    reason = constants.VOLUME_ATTACHED_ELSEWHERE
    phase = Phase.PENDING if run.attempt == 1 else Phase.RESTARTING
    return Decision(status.in_phase(observed, observed.job.status, phase, reason, **words), look_again=LOOK_AT_CLAIM)
