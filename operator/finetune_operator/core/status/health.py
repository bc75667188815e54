"""The condition TrainingHealthy: whether the training makes useful steps.

Of several problems the most costly one is reported: steps that change no weight, then checkpoints that cannot be
written, then a rank that the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import CheckpointStatus, LedgerEntry, ProgressStatus
from finetune_operator.constants import Reason
from finetune_operator.core.attempt import checkpoint
from finetune_operator.core.status.conditions import Truth
from finetune_trainer.contract import FailureClass, PodStatus


class Health(NamedTuple):
    """The content of the condition."""

    truth: Truth
    reason: Reason
    message: str


NOT_TRAINING = Health("Unknown", constants.NOT_TRAINING, constants.NOT_TRAINING.message)


def while_training(
    answers: Iterable[PodStatus], progress: ProgressStatus | None, newest: CheckpointStatus | None
) -> Health | None:
    """Return the health that rank 0 reports now; None if it reports nothing, so that nothing new is known."""
    told = next((answer.progress for answer in answers if answer.progress), None)
    if told is None or progress is None:
        return None
    if told.skipped_in_row:
        return _unhealthy(constants.DIVERGING, row=told.skipped_in_row, all=told.skipped_steps)
    if newest and newest.failure:
        kept = f"the newest checkpoint is of step {newest.step}" if checkpoint.is_there(newest) else "there is none yet"
        return _unhealthy(constants.CHECKPOINT_FAILING, newest=kept, detail=newest.failure)
    if slowest := progress.slowest:
        place = f" (pod {slowest.pod}, node {slowest.node})" if slowest.pod else ""
        return _unhealthy(constants.STRAGGLING, rank=slowest.rank, where=place, times=f"{slowest.times:.1f}")
    return Health("True", constants.HEALTHY, constants.HEALTHY.message.format(detail=_incidents(progress)))


def after_attempt(entry: LedgerEntry) -> Health:
    """Return the health after a failed attempt, until the next one trains."""
    words = {"attempt": entry.attempt, "run": entry.run, "detail": entry.message}
    match entry.class_:
        case FailureClass.HUNG:
            return _unhealthy(constants.HUNG, **words)
        case FailureClass.DIVERGED:
            return _unhealthy(constants.DIVERGED, **words)
    return NOT_TRAINING


def _unhealthy(reason: Reason, **words: object) -> Health:
    return Health("False", reason, reason.message.format(**words))


def _incidents(progress: ProgressStatus) -> str:
    """Describe the incidents so far, all of which are over."""
    counts = {"steps skipped": progress.skipped_steps, "loss spikes": progress.loss_spikes}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"; so far {told}" if told else ""
