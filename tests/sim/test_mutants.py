"""Tests that the simulation can fail: it notices each fault in the operator within a few hundred schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sim.mutants import MUTANTS
from sim.schedule import ViolationError, simulate

LIMIT = 600


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_fault_is_noticed(mutant: Callable[[], Any]) -> None:
    for seed in range(LIMIT):
        try:
            with mutant():
                simulate(seed)
        except ViolationError as violation:
            print(f"{mutant.__name__}: after {seed + 1} schedules: {str(violation).splitlines()[0]}")
            return
    pytest.fail(f"{LIMIT} schedules, and nobody noticed")
