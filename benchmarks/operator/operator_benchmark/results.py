"""The raw figures as a JSON file that grows with each measurement: a run that is interrupted keeps what it has.

A run takes the place of what it measures again and leaves the rest, so that parts can be repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

Measurement = dict[str, Any]


class Case(NamedTuple):
    """What is measured, with how many jobs."""

    scenario: str
    jobs: int


class Results:
    """Measurements by case, in a file."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        """Keeps what the file has; `machine` says where the new ones are made."""
        self._path = path
        self._machine = machine
        self._fresh: set[Case] = set()
        self._kept: list[Measurement] = json.loads(path.read_text())["measurements"] if path.exists() else []

    def add(self, case: Case, measured: Measurement) -> None:
        """The first one of a case in this run removes those of earlier runs."""
        if case not in self._fresh:
            self._fresh.add(case)
            self._kept = [m for m in self._kept if case_of(m) != case]
        self._kept.append({**case._asdict(), **measured})
        self._write()

    def of(self, case: Case) -> list[Measurement]:
        """The repetitions of a case, in the order in which they were made."""
        return [m for m in self._kept if case_of(m) == case]

    def cases(self) -> list[Case]:
        """Those that were measured, by scenario and number of jobs."""
        return sorted({case_of(m) for m in self._kept})

    def _write(self) -> None:
        text = json.dumps({"machine": self._machine, "measurements": self._kept}, indent=1) + "\n"
        partial = self._path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self._path)


def case_of(measured: Measurement) -> Case:
    """Of a measurement as it is in the file."""
    return Case(measured["scenario"], measured["jobs"])


def values(measurements: Iterable[Measurement], *path: str) -> list[float]:
    """One number of each measurement, by the keys that lead to it; those that lack it are left out."""
    found: list[float] = []
    for measured in measurements:
        value: Any = measured
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(float(value))
    return found
