"""Counts the steps that went wrong.

Such a step was skipped because a value was not finite, or its loss was far above those of the steps before (a spike).
"""

from __future__ import annotations

import math
import statistics

from finetune_trainer.checkpoint.files import Health

MAX_SKIPPED_IN_ROW = 10
"""The greatest number of skipped steps in a row. With one more, the training has diverged."""
RECENT_LOSSES = 50
LOSSES_TO_COMPARE = 20
"""The number of losses that are needed to call another one a spike. In the beginning, the loss falls quickly."""
SPIKE_DEVIATIONS = 6.0
"""The distance of a spike from the median, in standard deviations that the median absolute deviation estimates."""
SPIKE_FACTOR = 1.5
"""The smallest ratio of a spike and the median, so that a curve without noise has no spikes."""
DEVIATION_OF_MEDIAN = 1.4826
"""The ratio of a normal distribution's standard deviation and its median absolute deviation."""


def after_step(before: Health, loss: float, skipped: bool) -> Health:
    """Return the health after a step. `loss` is the step's mean loss; NaN if the step has no supervised labels."""
    if skipped:
        return before.model_copy(update={"skipped": before.skipped + 1, "skipped_in_row": before.skipped_in_row + 1})
    if not math.isfinite(loss):
        return before.model_copy(update={"skipped_in_row": 0})
    return before.model_copy(
        update={
            "skipped_in_row": 0,
            "spikes": before.spikes + is_spike(loss, before.recent_losses),
            "recent_losses": (*before.recent_losses, loss)[-RECENT_LOSSES:],
        }
    )


def is_spike(loss: float, recent: tuple[float, ...]) -> bool:
    """Return whether a loss is far above the recent ones."""
    if len(recent) < LOSSES_TO_COMPARE:
        return False
    median = statistics.median(recent)
    deviation = DEVIATION_OF_MEDIAN * statistics.median(abs(value - median) for value in recent)
    return loss > median + SPIKE_DEVIATIONS * deviation and loss > SPIKE_FACTOR * median
