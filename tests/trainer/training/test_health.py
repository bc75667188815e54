"""Which steps count as skipped or as loss spikes."""

from __future__ import annotations

import math

import pytest

from finetune_trainer.checkpoint.files import Health
from finetune_trainer.training.health import LOSSES_TO_COMPARE, RECENT_LOSSES, after_step

NOISE = [2.0 + 0.1 * math.sin(7 * n) for n in range(200)]


def after(losses: list[float], before: Health | None = None) -> Health:
    health = before or Health()
    for loss in losses:
        health = after_step(health, loss, skipped=False)
    return health


def test_skipped_steps_are_counted_until_one_is_done() -> None:
    health = after_step(after_step(Health(), math.nan, skipped=True), math.nan, skipped=True)
    assert (health.skipped, health.skipped_in_row) == (2, 2)
    health = after_step(health, 1.0, skipped=False)
    assert (health.skipped, health.skipped_in_row) == (2, 0)


def test_a_loss_far_above_the_recent_ones_is_a_spike() -> None:
    assert after([*NOISE[:40], 4.0, *NOISE[41:60]]).spikes == 1


@pytest.mark.parametrize(
    "losses",
    [
        NOISE,
        [5.0 * 0.97**n for n in range(100)],
        [1.0] * 50 + [1.2] * 5,
        [2.0] * (LOSSES_TO_COMPARE - 1) + [50.0],
        [0.5] * 40 + [math.nan] * 3,
    ],
    ids=["noise", "falling", "flat and a little more", "too early", "nothing supervised"],
)
def test_no_spike(losses: list[float]) -> None:
    assert after(losses).spikes == 0


def test_the_window_is_bounded_and_goes_on_after_a_resume() -> None:
    whole = after([*NOISE[:60], 9.0])
    assert len(whole.recent_losses) == RECENT_LOSSES
    saved = Health.model_validate_json(after(NOISE[:60]).to_json())
    assert after([9.0], saved) == whole
