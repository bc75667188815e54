"""Which rank counts as slow."""

from __future__ import annotations

import pytest

from finetune_trainer.ranks.stragglers import straggler


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ([1.0, 1.0, 1.0, 3.0], (3, 3.0)),
        ([2.0, 1.0], (0, 2.0)),
        ([1.0, 1.3, 1.2, 1.1], None),
        ([0.01, 0.03], None),
        ([0.0, 0.0], None),
        ([5.0], None),
        ([], None),
    ],
    ids=["one of four", "one of two", "alike", "too little to tell", "nothing measured", "alone", "none"],
)
def test_a_straggler_is_much_slower_than_the_median(seconds: list[float], slow: tuple[int, float] | None) -> None:
    assert straggler(seconds) == slow
