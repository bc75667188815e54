"""Checks that a status can hold the figures that pods report; the API server would refuse other figures forever."""

from __future__ import annotations

from finetune_operator.core.times import LARGEST_SECONDS
from finetune_trainer.contract import CheckpointReport

LARGEST_FIGURE = 2**53
"""The limit below which JSON represents every whole number exactly in every language."""


def is_plausible(told: CheckpointReport) -> bool:
    """Return whether a status can hold the figures of a checkpoint report."""
    counts, seconds = (told.step, told.bytes), (told.time, told.save_seconds)
    return all(0 <= count < LARGEST_FIGURE for count in counts) and all(0 <= s < LARGEST_SECONDS for s in seconds)
