"""The file with the rows of the table: one line of JSON for each architecture and task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.contract import TASKS, Task

RESULTS = Path(__file__).parent / "results.jsonl"
LIBRARIES = ("torch", "transformers", "peft", "deepspeed")
COLUMNS = tuple(f"{method}, ZeRO {stage}" for method in ("Full", "LoRA", "merged") for stage in (0, 3))
"""The columns of the table: what is saved, and the ZeRO stage of its training."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one column."""

    ended: Literal["trained", "refused", "failed"]
    """How it ended. "failed" indicates a defect: an error that is not a refusal, ranks that hang, or a reloaded
    model with another loss."""
    loss_before: float | None = None
    """The loss of the start model on the evaluation rows, in nats."""
    loss_after: float | None = None
    """The loss of the trained model on the same rows, in nats; the reloaded result has the same loss."""
    sentence: str | None = None
    """The message of the refusal, or what failed."""


@dataclass(frozen=True)
class Row:
    """One architecture in one task."""

    task: Task
    architecture: str
    model_class: str = ""
    parameters: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """The outcome of each column."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether any column failed."""
        return any(outcome.ended == "failed" for outcome in self.outcomes.values())


class Results:
    """The results file. Its first line holds the versions of the libraries; each row is appended once it is made."""

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the libraries with which the rows were made."""
        said: dict[str, str] = json.loads(self._path.read_text().partition("\n")[0])["versions"]
        return said

    def rows(self) -> list[Row]:
        """Return all rows, sorted by task and name."""
        found = {(row.task, row.architecture): row for row in self._lines()}
        order = list(TASKS)
        return sorted(found.values(), key=lambda row: (order.index(row.task), row.architecture))

    def begin(self) -> None:
        """Start an empty file, unless one exists that was made with the installed libraries."""
        installed = {library: version(library).partition("+")[0] for library in LIBRARIES}
        if not self._path.exists() or self.versions != installed:
            self._path.write_text(json.dumps({"versions": installed}) + "\n")

    def add(self, row: Row) -> None:
        """Append a row, which replaces an older row of the same architecture and task."""
        with self._path.open("a") as file:
            file.write(_line(row))

    def tidy(self) -> None:
        """Rewrite the file with each row once, sorted."""
        first = self._path.read_text().partition("\n")[0]
        self._path.write_text(f"{first}\n" + "".join(map(_line, self.rows())))

    def _lines(self) -> Iterator[Row]:
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines()[1:]:
            fields: dict[str, Any] = json.loads(line)
            outcomes = {column: Outcome(**outcome) for column, outcome in fields.pop("outcomes").items()}
            yield Row(**fields, outcomes=outcomes)


def _line(row: Row) -> str:
    fields = dataclasses.asdict(row)
    fields["outcomes"] = {
        column: {name: value for name, value in outcome.items() if value is not None}
        for column, outcome in fields["outcomes"].items()
    }
    return json.dumps(fields) + "\n"
