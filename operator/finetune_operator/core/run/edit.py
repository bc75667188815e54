"""What an edit of the spec means for a run that has not trained yet.

Such an edit takes effect at once, because no training is lost. An edit of a run that has trained waits for the end of
the run, or replaces the run if retrain.whileRunning says so.
"""

from __future__ import annotations

from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus, RunStatus
from finetune_operator.constants import ConditionType
from finetune_operator.core.attempt import checkpoint
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.resolve import with_config_digest
from finetune_operator.core.run.retrain import launch_of
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.conditions import is_true
from finetune_operator.core.status.progress import attested

BEFORE_TRAINING = "the spec was edited before training began"


def holds_at_once(observed: Observed) -> bool:
    """Return whether the spec was edited while the unfinished run cannot have trained yet."""
    run = observed.job.status.run
    return observed.edit is not None and run is not None and not _may_have_trained(observed, run)


def edited_job(observed: Observed) -> FineTuneJob:
    """Return the job with the current spec, where `observed.job` has the spec of the run."""
    assert observed.edit is not None
    return observed.job.model_copy(update={"spec": observed.edit})


def launches_alike(observed: Observed) -> bool:
    """Return whether the edit changes nothing in the pods.

    Such an edit only sets retrain.request, which the run fulfils by training.
    """
    assert observed.edit is not None
    same = observed.job.spec.model_copy(update={"retrain": observed.edit.retrain})
    return not observed.spec_lost and same == observed.edit


def launched_as_edited(job: FineTuneJob, run: RunStatus, settings: Settings) -> RunStatus:
    """Return the run with its attempt launched from the spec of `job`.

    That spec asks for the model that the run trains anyway. A plan that was made smaller for the memory of the old spec
    is forgotten.
    """
    forgotten = {"image_id": None, "micro_batch_size": None, "activation_checkpointing": False}
    update = launch_of(job, settings) | forgotten | {"spec_attempt": run.attempt}
    return with_config_digest(job, run.model_copy(update=update), settings)


def _may_have_trained(observed: Observed, run: RunStatus) -> bool:
    """Return whether the run may have trained.

    The status may show it, which survives a restart of the operator; or the messages of ended pods; or, once all pods
    have started, the agents' answers. If rank 0's agent does not answer then, the operator may be unable to reach it,
    and the run counts as one that may have trained.
    """
    if _has_trained(observed.job.status, run) or any(pod.message and pod.message.step for pod in observed.pods):
        return True
    if sum(pod.running or pod.exit_code is not None for pod in observed.pods) < run.nodes:
        return False
    answers = observed.answers.values()
    return bool(attested(run, answers)) or not any(answer.index == 0 for answer in answers)


def _has_trained(status: FineTuneJobStatus, run: RunStatus) -> bool:
    """Return whether, by the status, the run has attested its world, made a step or left a checkpoint."""
    return (
        run.attested
        or is_true(status.conditions, ConditionType.WORLD_READY)
        or status.progress is not None
        or checkpoint.is_there(status.checkpoint)
        or any(entry.run == run.number and (entry.step or entry.checkpoint_step) for entry in status.ledger)
    )
