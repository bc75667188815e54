"""Figures of pods that a status can hold: an API server would refuse it for ever otherwise."""

from __future__ import annotations

from finetune_operator.core.times import LARGEST_SECONDS
from finetune_trainer.contract import CheckpointReport

LARGEST_FIGURE = 2**53
"""Up to here every whole number is the same in JSON, in every language."""


def is_plausible(told: CheckpointReport) -> bool:
    """Whether the figures of a checkpoint are those of one."""
    counts, seconds = (told.step, told.bytes), (told.time, told.save_seconds)
    return all(0 <= count < LARGEST_FIGURE for count in counts) and all(0 <= s < LARGEST_SECONDS for s in seconds)
