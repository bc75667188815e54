"""How many objects are made, and how: the same ones in every run, unless more are asked for."""

from __future__ import annotations

import os
import warnings
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning

OBJECTS = int(os.environ.get("FINETUNE_FUZZED_OBJECTS", "10000"))
"""FineTuneJobs in all tests of this folder together; pods and Jobs come besides."""
T = TypeVar("T")


def share(part: float, **options: Any) -> settings:
    """For a test that is given one object at a time, and that part of all."""
    return settings(
        max_examples=max(1, round(OBJECTS * part)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )


def drawn(strategy: st.SearchStrategy[T], part: float) -> list[T]:
    """For a test that needs many at once."""
    found: list[T] = []

    @share(part, phases=[Phase.generate])
    @given(strategy)
    def draw(value: T) -> None:
        found.append(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        draw()
    return found
