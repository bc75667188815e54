"""Makes a run that has not trained yet follow an edit of the spec at once."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.decisions.attempt_ends import end_as_failure, ended_run
from finetune_operator.core.decisions.decision import Decision
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run import edit
from finetune_operator.core.run.resolve import recipe_digest
from finetune_operator.core.run.retrain import wanted_digest
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.core.status import written as status
from finetune_trainer.contract import FailureClass


def follow_edit(observed: Observed, run: RunStatus, settings: Settings) -> Decision:
    """Start another run if the edit asks for another model, or another attempt if it changes the launch.

    An edit that changes nothing in the pods only changes the status.
    """
    job = edit.edited_job(observed)
    if recipe_digest(job.spec, run.contract) != run.recipe:
        return _end_run(observed, run)
    if edit.launches_alike(observed):
        update = {"generation": job.metadata.generation, "wanted": wanted_digest(job.spec)}
        followed = observed.job.status.model_copy(update={"run": run.model_copy(update=update)})
        return Decision(followed, look_again=0)
    return end_as_failure(observed, run, Cause(FailureClass.EDITED, edit.BEFORE_TRAINING), settings, edited=job)


def _end_run(observed: Observed, run: RunStatus) -> Decision:
    """End the run so that another one follows.

    The end is written before the run's pods and other children are deleted, like any other end. Another run is needed
    afterwards, even if the spec is edited again in the meantime.
    """
    entry = ledger.failure(run, Cause(FailureClass.REPLACED, edit.BEFORE_TRAINING), False, "", None, observed.now)
    ended = ended_run(observed, run, release=True).model_copy(update={"wanted": ""})
    after = ledger.entered(observed.job.status, entry).model_copy(update={"run": ended})
    after = status.between_attempts(observed, after)
    if observed.child or not observed.job.spec.suspend:  # a job that is already suspended stays in that phase
        detail = f"; {edit.BEFORE_TRAINING}, and run {run.number + 1} follows"
        after = status.in_phase(observed, after, Phase.PENDING, constants.PENDING, detail=detail)
    return Decision(after, look_again=0)
