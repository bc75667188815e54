"""The newest checkpoint of a run, by rank 0's word, and what follows from it for the next attempt."""

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
"""Seconds: the ranks must also end a step and leave, and a slow volume is slow without notice."""
SAVES_OF_GRACE = 2
MOST_GRACE = 86_400


def newest(answers: Iterable[PodStatus], so_far: CheckpointStatus | None) -> CheckpointStatus | None:
    """By what rank 0's agent says now; without its word, as it was."""
    told = next((answer.checkpoint for answer in answers if answer.checkpoint), None)
    return as_status(told) if told else so_far


def last(pods: Iterable[PodView], so_far: CheckpointStatus | None) -> CheckpointStatus | None:
    """By the last word of rank 0's pod, of the last one if its Job was suspended and resumed; without it, as it was."""
    words = ((pod.ended, pod.message.checkpoint) for pod in pods if pod.index == 0 and pod.message)
    told = [(ended.timestamp() if ended else 0.0, word) for ended, word in words if word]
    return as_status(max(told, key=lambda each: each[0])[1]) if told else so_far


def as_status(told: CheckpointReport) -> CheckpointStatus:
    """What a pod said, in the form that a person reads."""
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
    """Whether one was written; the first one may have failed."""
    return checkpoint is not None and checkpoint.step > 0


def has_progressed(run: RunStatus, checkpoint: CheckpointStatus | None) -> bool:
    """Whether the run's attempt left a newer one than it began with."""
    return checkpoint is not None and checkpoint.step > (run.checkpoint_step or 0)


def start(checkpoint: CheckpointStatus | None) -> str:
    """From where the next attempt goes on, for people."""
    return f"step {checkpoint.step}" if checkpoint and is_there(checkpoint) else "the beginning"


def grace(checkpoint: CheckpointStatus | None, progress: ProgressStatus | None) -> int | None:
    """Seconds between SIGTERM and SIGKILL for the next attempt: a step must end, and a save may take twice as long as
    the last one. None as long as no checkpoint has told how long it takes."""
    if checkpoint is None or not is_there(checkpoint):
        return None
    step = progress.step_seconds if progress and progress.step_seconds else 0.0
    return min(MOST_GRACE, max(LEAST_GRACE, math.ceil(SAVES_OF_GRACE * checkpoint.save_seconds + step)))


def asked_for(spec: FineTuneJobSpec, status: FineTuneJobStatus) -> str:
    """The request that the running attempt has not answered; empty if there is none."""
    answered = status.checkpoint.request if status.checkpoint else ""
    return "" if spec.checkpoint.request == answered else spec.checkpoint.request
