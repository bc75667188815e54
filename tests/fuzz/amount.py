"""The number of fuzzed objects and how they are drawn: every run has the same ones, unless more are requested."""

from __future__ import annotations

import os
import warnings
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning

OBJECTS = int(os.environ.get("FINETUNE_FUZZED_OBJECTS", "10000"))
"""The number of FineTuneJobs in all tests of this folder together; pods and Jobs are additional."""
T = TypeVar("T")


def share(part: float, **options: Any) -> settings:
    """Return the settings of a test that gets one object at a time, and this part of OBJECTS."""
    return settings(
        max_examples=max(1, round(OBJECTS * part)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )


def drawn(strategy: st.SearchStrategy[T], part: float) -> list[T]:
    """Return this part of OBJECTS as a list, for a test that needs many at once."""
    found: list[T] = []

    @share(part, phases=[Phase.generate])
    @given(strategy)
    def draw(value: T) -> None:
        found.append(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        draw()
    return found
