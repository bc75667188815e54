"""Decides the next step of a FineTuneJob from what was observed.

`decide` only lists the cases in their order; each rule is in a file of its own. The start or the end of an attempt is
written to the status before objects are created or deleted. The same reconcile creates or deletes them if it knows
everything that this takes; otherwise the next reconcile does. A crash in between loses nothing, because the next
reconcile finds what is still to be done.
"""

from __future__ import annotations

from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, InvalidStatusError
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.attempt.cause import Cause, cause_of, has_failed
from finetune_operator.core.attempt.success import judge
from finetune_operator.core.decisions.attempt_ends import end_as_failure, end_as_success, failing, read_result
from finetune_operator.core.decisions.attempt_goes_on import report
from finetune_operator.core.decisions.between_attempts import create, suspended
from finetune_operator.core.decisions.between_runs import at_rest
from finetune_operator.core.decisions.child_missing import make_again
from finetune_operator.core.decisions.decision import Decision as Decision
from finetune_operator.core.decisions.decision import attempt_name, stall_job
from finetune_operator.core.decisions.decision import stall as stall
from finetune_operator.core.decisions.edited import follow_edit
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run import suspend
from finetune_operator.core.run.edit import holds_at_once
from finetune_operator.core.run.naming import look_name
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import FailureClass


def decide(observed: Observed, settings: Settings) -> Decision:
    """Return the next step of a valid job that is not being deleted.

    The first case that applies decides:

    1. No run is active: delete what has outlived its time, or start a run that is asked for.
    2. The Job of the attempt before still exists: delete it.
    3. A Job that is not ours has the name of one of ours: stall.
    4. Every pod has ended well: the run is complete. If rank 0's message was lost, read it from the workspace.
    5. The attempt is lost: wait for the termination messages of its other pods, then end the attempt.
    6. The spec was edited and the run has not trained yet: follow the edit.
    7. The spec was edited and `retrain.whileRunning` is Replace: end the run.
    8. The attempt has no Job: end it if its Job was deleted, wait if the job is suspended, else create its children.
    9. The user or a queue suspended the job: end the attempt.
    10. Somebody deleted a child of the attempt: create it again.
    11. The attempt goes on: report its progress, or end it if a deadline has passed.
    """
    job = observed.job
    run = job.status.run
    # 1. No run is active.
    if run is None or run.completion_time:
        return at_rest(observed, run, settings)
    # 2. The Job of the attempt before still exists.
    if observed.previous and not observed.previous.deleted:
        return Decision(delete_job=attempt_name(observed, run, before=1), look_again=0)
    # 3. A Job that is not ours has the name of one of ours.
    if observed.child and observed.child.owner_uid != job.metadata.uid:
        return stall_job(observed, constants.NAME_CONFLICT, kind="Job", name=attempt_name(observed, run))
    if observed.look_job and observed.look_job.owner_uid != job.metadata.uid:
        return stall_job(observed, constants.NAME_CONFLICT, kind="Job", name=look_name(attempt_name(observed, run)))
    # 4. Every pod has ended well.
    if observed.child and (verdict := judge(run, observed.child, observed.pods, observed.look_job)):
        if verdict.result:
            return end_as_success(observed, run, verdict.result)
        if verdict.is_in_workspace:  # the look Job mounts the attempt's ConfigMap
            return make_again(observed, run, settings) if observed.missing else read_result(observed, run)
        return end_as_failure(observed, run, Cause(verdict.failure, verdict.fault), settings)
    # 5. The attempt is lost.
    if observed.child and has_failed(observed.child, observed.pods):
        return failing(observed, run, settings)
    # 6. The spec was edited, and the run has not trained yet.
    if holds_at_once(observed):
        return follow_edit(observed, run, settings)
    # 7. The spec was edited, and the edit replaces the run.
    if observed.edited and job.spec.retrain.while_running == "Replace":
        message = "the spec was edited, and retrain.whileRunning is Replace"
        return end_as_failure(observed, run, Cause(FailureClass.REPLACED, message), settings)
    # 8. The attempt has no Job.
    if observed.child is None:
        if run.job_uid is not None:
            return end_as_failure(observed, run, cause_of(None, observed.pods, run.world // run.nodes), settings)
        if observed.spec_lost:
            message = "the spec was edited, and the one that the run began with was deleted with its ConfigMaps"
            return end_as_failure(observed, run, Cause(FailureClass.REPLACED, message), settings)
        return suspended(observed, run) if job.spec.suspend else create(observed, run, settings)
    # 9. The user or a queue suspended the job.
    if job.spec.suspend:
        return end_as_failure(observed, run, suspend.by_user(run), settings)
    if stopped := suspend.by_another(observed.child, observed.pods):
        return end_as_failure(observed, run, stopped, settings)
    # 10. Somebody deleted a child of the attempt.
    if observed.missing:
        return make_again(observed, run, settings)
    # 11. The attempt goes on.
    return report(observed, run, settings)


def decide_invalid(before: FineTuneJobStatus, generation: int, error: InvalidManifestError, now: datetime) -> Decision:
    """Report that the spec or the status of a job cannot be read.

    `before` is the part of its status that can be read.
    """
    reason = constants.INVALID_STATUS if isinstance(error, InvalidStatusError) else constants.INVALID_SPEC
    return stall(before, generation, now, reason, detail="; ".join(error.sentences))
