"""Steps that went wrong: skipped because a number was not finite, or with a loss far above that of the steps before."""

from __future__ import annotations

import math
import statistics

from finetune_trainer.checkpoint.files import Health

MAX_SKIPPED_IN_ROW = 10
"""One more, and the training has diverged."""
RECENT_LOSSES = 50
LOSSES_TO_COMPARE = 20
"""With fewer, nothing is called a spike: at the beginning the loss falls fast."""
SPIKE_DEVIATIONS = 6.0
"""Standard deviations, estimated from the median absolute deviation, above the median."""
SPIKE_FACTOR = 1.5
"""And at least so many times the median, so that a curve without noise has no spikes."""
DEVIATION_OF_MEDIAN = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


def after_step(before: Health, loss: float, skipped: bool) -> Health:
    """`loss` is the step's mean; NaN if nothing in it was supervised."""
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
    """Whether a loss is far above the recent ones."""
    if len(recent) < LOSSES_TO_COMPARE:
        return False
    median = statistics.median(recent)
    deviation = DEVIATION_OF_MEDIAN * statistics.median(abs(value - median) for value in recent)
    return loss > median + SPIKE_DEVIATIONS * deviation and loss > SPIKE_FACTOR * median
