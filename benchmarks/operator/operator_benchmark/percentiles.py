"""Summarizes many numbers by percentiles and spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple


class Spread(NamedTuple):
    """The spread of the repetitions of one measurement."""

    median: float
    lowest: float
    highest: float
    repetitions: int


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that at least that percentage of the values do not exceed (nearest rank).

    Raises ValueError if there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def of_jobs(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and the last of the times of many jobs."""
    return {
        "p50": round(percentile(seconds, 50), 4),
        "p95": round(percentile(seconds, 95), 4),
        "last": round(max(seconds), 4),
    }


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of the values. Raises statistics.StatisticsError if there are none."""
    return Spread(median(values), min(values), max(values), len(values))
