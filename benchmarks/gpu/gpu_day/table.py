"""Renders results.md from the JSON files of any number of days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_day.record import Figures, Record
from gpu_day.registry import STEPS
from gpu_day.schedule import FINISHED
from gpu_day.step import GIB, Step

NOT_MEASURED = "not measured"
HEAD = """# What GPUs make of this trainer

`python benchmarks/gpu/day.py --table` makes this page from the JSON of the days in `days/`; README.md says what the
steps do. A row that no day has measured says so.
"""


@dataclass(frozen=True)
class MeasuredDay:
    """The records of one day, by the letter of their step."""

    name: str
    records: dict[str, Record]

    @classmethod
    def read(cls, folder: Path) -> MeasuredDay:
        """Read the existing files of a day. Raises ValueError for a file that is not a step's."""
        files = [folder / step.file for step in STEPS]
        try:
            return cls(folder.name, {file.name[0]: Record.read(file) for file in files if file.exists()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"--table: {folder} has a file that is not a step's ({error}); remove it") from None

    @property
    def machine(self) -> Figures:
        """The machine and the commit, which all steps of a day share."""
        return next(iter(self.records.values())).machine


def markdown(days: Sequence[MeasuredDay]) -> str:
    """Render the whole page, the newest day first."""
    ordered = sorted(days, key=lambda day: str(day.machine["date"]), reverse=True)
    parts = [HEAD, _days(ordered)]
    parts += [_section(step, ordered) for step in STEPS]
    return "\n".join(parts)


def step_table(step: Step, records: Sequence[tuple[str, Record]], only_measured: bool = False) -> str:
    """Render the table of one step: a line for each row and each record that has it, with the name of its day."""
    titles = ["row", "day", *(column.title for column in step.columns)]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in step.rows:
        measured = [(day, record.rows[row]) for day, record in records if row in record.rows]
        lines += [_line([row, day, *_cells(step, figures)]) for day, figures in measured]
        if not measured and not only_measured:
            lines.append(_line([row, NOT_MEASURED, *[""] * len(step.columns)]))
    return "\n".join(lines) + "\n"


def _days(days: Sequence[MeasuredDay]) -> str:
    if not days:
        return "No day has run yet.\n"
    lines = [_line(["day", "card", "commit", "driver", "torch", "transformers", "deepspeed", "CPUs"])]
    lines.append(_line(["---"] * 8))
    for day in days:
        machine = day.machine
        card = f"{machine['card']}, {machine['gpuBytes'] / GIB:.0f} GiB" if "card" in machine else "CPUs only"
        packages = [machine["packages"].get(name) for name in ("torch", "transformers", "deepspeed")]
        fields = [day.name, card, machine["commit"], machine.get("driver"), *packages, machine["cpus"]]
        lines.append(_line([str("" if field is None else field) for field in fields]))
    return "\n".join(lines) + "\n"


def _section(step: Step, days: Sequence[MeasuredDay]) -> str:
    records = [(day.name, day.records[step.letter]) for day in days if step.letter in day.records]
    ends = [f"On {day}, the step {record.ended}.\n" for day, record in records if record.ended != FINISHED]
    note = [f"{step.note}\n"] if step.note else []
    return "\n".join([f"## ({step.letter}) {step.title}\n", *note, step_table(step, records), *ends])


def _cells(step: Step, figures: Figures) -> list[str]:
    cells = ["" if figures.get(c.key) is None else c.form(figures[c.key]) for c in step.columns]
    if "failed" in figures:
        cells[0] = f"failed: {figures['failed']}" + (f"; {cells[0]}" if cells[0] else "")
    return cells


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
