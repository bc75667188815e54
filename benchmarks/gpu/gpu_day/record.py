"""The JSON file of one step. It is written again after every row, so that a killed step loses only its last row."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
MAX_LOG_CHARACTERS = 20_000
"""The number of characters that are kept from the end of a failed step's output."""


@dataclass
class Record:
    """The figures that a step has measured so far."""

    path: Path
    step: str
    machine: Figures
    """The GPU, the versions of the packages, the commit and the date."""
    rows: dict[str, Figures] = field(default_factory=dict)
    ended: str = "is running"
    seconds: float = 0.0
    log: str = ""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a step's file. Raises OSError or ValueError."""
        fields = json.loads(path.read_text())
        return cls(path, **fields)

    def add(self, row: str, figures: Figures) -> None:
        """Add a row that was measured, and write the file."""
        self.rows[row] = figures
        print(f"{row}: {json.dumps(figures)}", flush=True)
        self.write()

    def fail(self, row: str, reason: str, figures: Figures | None = None) -> None:
        """Add a row that failed, with the reason and what was measured before."""
        self.add(row, {**(figures or {}), "failed": reason})

    def write(self) -> None:
        """Replace the file. Raises OSError."""
        fields = {name: value for name, value in self.__dict__.items() if name != "path"}
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text(json.dumps(fields, indent=1) + "\n")
        os.replace(temporary, self.path)

    @property
    def failures(self) -> dict[str, str]:
        """The reasons of the failed rows, by row."""
        return {row: figures["failed"] for row, figures in self.rows.items() if "failed" in figures}
