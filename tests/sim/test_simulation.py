"""Tests that the operator keeps its promises in a thousand schedules of faults; each seed is a schedule.

`make sim N=10000` simulates more of them, and `make sim SEED=123` one, with the trace of everything that happened in
it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim.schedule import ViolationError, simulate

TESTS = Path(__file__).parents[1]
SCHEDULES = 1000
TOGETHER = 40


@pytest.mark.parametrize("first", range(0, SCHEDULES, TOGETHER))
def test_the_operator_keeps_its_promises_in_the_schedules_from(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        simulate(seed)


def test_a_seed_tells_the_same_story_every_time_and_in_every_process() -> None:
    stories = {
        subprocess.run(
            [sys.executable, "-m", "sim", "--seed", "7"],
            cwd=TESTS,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2", "3")
    }
    assert len(stories) == 1
    assert "seed 7: no violation" in stories.pop()


def test_a_failure_tells_its_seed_its_trace_and_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.invariants.MAX_STATUS_BYTES", 10)
    with pytest.raises(ViolationError, match=r"seed 7: the status of job-0 has \d+ bytes") as failure:
        simulate(7)
    assert "job-0 is created" in str(failure.value)
    assert str(failure.value).endswith("make sim SEED=7")
