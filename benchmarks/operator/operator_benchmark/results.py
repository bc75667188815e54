"""The raw figures as a JSON file that is written after each measurement, so that an interrupted run keeps its results.

A run replaces what it measures again and keeps the rest, so that parts can be repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

Measurement = dict[str, Any]


class Case(NamedTuple):
    """A scenario with its number of jobs."""

    scenario: str
    jobs: int


class Results:
    """The measurements by case, in a file."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        """Read the measurements that the file contains. `machine` describes where the new ones are made."""
        self._path = path
        self._machine = machine
        self._fresh: set[Case] = set()
        self._kept: list[Measurement] = json.loads(path.read_text())["measurements"] if path.exists() else []

    def add(self, case: Case, measured: Measurement) -> None:
        """Add a measurement. The first one of a case in this run removes those of earlier runs."""
        if case not in self._fresh:
            self._fresh.add(case)
            self._kept = [m for m in self._kept if case_of(m) != case]
        self._kept.append({**case._asdict(), **measured})
        self._write()

    def of(self, case: Case) -> list[Measurement]:
        """Return the repetitions of a case, in the order in which they were made."""
        return [m for m in self._kept if case_of(m) == case]

    def cases(self) -> list[Case]:
        """Return the measured cases, sorted by scenario and number of jobs."""
        return sorted({case_of(m) for m in self._kept})

    def _write(self) -> None:
        text = json.dumps({"machine": self._machine, "measurements": self._kept}, indent=1) + "\n"
        partial = self._path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self._path)


def case_of(measured: Measurement) -> Case:
    """Return the case of a measurement from the file."""
    return Case(measured["scenario"], measured["jobs"])


def values(measurements: Iterable[Measurement], *path: str) -> list[float]:
    """Return one number of each measurement, which is found under the keys of `path`.

    Measurements without it are left out.
    """
    found: list[float] = []
    for measured in measurements:
        value: Any = measured
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(float(value))
    return found
