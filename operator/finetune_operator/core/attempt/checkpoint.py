"""The newest checkpoint of a run, as rank 0 reports it, and what follows from it for the next attempt."""

from __future__ import annotations

import math
from collections.abc import Iterable

from finetune_operator.api.v1alpha1 import (
    CheckpointStatus,
    FineTuneJobSpec,
    FineTuneJobStatus,
    ProgressStatus,
    RunStatus,
)
from finetune_operator.core.observed.text import MAX_LINE_BYTES, shortened
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.times import from_seconds, to_text
from finetune_trainer.contract import MAX_REQUEST_CHARACTERS, CheckpointReport, PodStatus

LEAST_GRACE = 30
"""The shortest grace period in seconds.

The ranks must also end a step and exit, and a volume may become slow at any time.
"""
SAVES_OF_GRACE = 2
MOST_GRACE = 86_400


def newest(answers: Iterable[PodStatus], so_far: CheckpointStatus | None) -> CheckpointStatus | None:
    """Return the checkpoint that rank 0's agent reports now, or else the known one."""
    told = next((answer.checkpoint for answer in answers if answer.checkpoint), None)
    return as_status(told) if told else so_far


def last(pods: Iterable[PodView], so_far: CheckpointStatus | None) -> CheckpointStatus | None:
    """Return the checkpoint in the termination message of rank 0's pod, or else the known one.

    If the Job was suspended and resumed, the pod that ended last counts.
    """
    words = ((pod.ended, pod.message.checkpoint) for pod in pods if pod.index == 0 and pod.message)
    told = [(ended.timestamp() if ended else 0.0, word) for ended, word in words if word]
    return as_status(max(told, key=lambda each: each[0])[1]) if told else so_far


def as_status(told: CheckpointReport) -> CheckpointStatus:
    """Return a pod's report in the form that the status has for users."""
    time = from_seconds(told.time)
    assert time is not None, "what no calendar has was dropped"
    return CheckpointStatus(
        step=told.step,
        time=to_text(time),
        bytes=told.bytes,
        save_seconds=float(f"{told.save_seconds:.3g}"),
        request=shortened(told.request, MAX_REQUEST_CHARACTERS),
        failure=shortened(told.failure, MAX_LINE_BYTES) if told.failure else None,
    )


def is_there(checkpoint: CheckpointStatus | None) -> bool:
    """Return whether a checkpoint was written; saving the first one may have failed."""
    return checkpoint is not None and checkpoint.step > 0


def has_progressed(run: RunStatus, checkpoint: CheckpointStatus | None) -> bool:
    """Return whether the run's attempt left a newer checkpoint than it began with."""
    return checkpoint is not None and checkpoint.step > (run.checkpoint_step or 0)


def start(checkpoint: CheckpointStatus | None) -> str:
    """Describe for users where the next attempt begins."""
    return f"step {checkpoint.step}" if checkpoint and is_there(checkpoint) else "the beginning"


def grace(checkpoint: CheckpointStatus | None, progress: ProgressStatus | None) -> int | None:
    """Return the seconds between SIGTERM and SIGKILL for the next attempt.

    A step must end, and a save may take twice as long as the last one. Return None while no checkpoint has reported how
    long a save takes.
    """
    if checkpoint is None or not is_there(checkpoint):
        return None
    step = progress.step_seconds if progress and progress.step_seconds else 0.0
    return min(MOST_GRACE, max(LEAST_GRACE, math.ceil(SAVES_OF_GRACE * checkpoint.save_seconds + step)))


def asked_for(spec: FineTuneJobSpec, status: FineTuneJobStatus) -> str:
    """Return the checkpoint request that the running attempt has not answered; empty if there is none."""
    answered = status.checkpoint.request if status.checkpoint else ""
    return "" if spec.checkpoint.request == answered else spec.checkpoint.request
