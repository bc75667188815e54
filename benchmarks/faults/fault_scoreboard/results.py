"""The outcomes as a JSON file, which is written after each outcome. A new outcome replaces the earlier one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fault_scoreboard.outcome import Outcome


class Results:
    """The outcomes by fault and side."""

    def __init__(self, path: Path, machine: str) -> None:
        """Read the outcomes that the file contains."""
        self._path = path
        self._machine = machine
        kept = json.loads(path.read_text())["outcomes"] if path.exists() else []
        self._outcomes: dict[tuple[str, str], dict[str, Any]] = {(one["fault"], one["side"]): one for one in kept}

    def add(self, outcome: Outcome) -> None:
        """Write the outcome into the file."""
        self._outcomes[outcome.fault, outcome.side] = asdict(outcome)
        text = json.dumps({"machine": self._machine, "outcomes": list(self._outcomes.values())}, indent=1) + "\n"
        partial = self._path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self._path)

    def of(self, fault: str, side: str) -> dict[str, Any] | None:
        """Return the outcome; None if it was not measured."""
        return self._outcomes.get((fault, side))
