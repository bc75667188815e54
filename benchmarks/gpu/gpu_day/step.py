"""A step of the day: its name, its time limit, and the rows and columns of its table."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_day.record import Figures, Record

GIB = 1024**3


@dataclass(frozen=True)
class Column:
    """A figure of a row. `form` turns its value into text."""

    key: str
    title: str
    form: Callable[[Any], str] = str


@dataclass(frozen=True)
class Step:
    """A part of the day. The table shows every row, measured or not."""

    letter: str
    name: str
    title: str
    seconds: int
    """The time limit in seconds on a GPU. The step's processes are killed when it is over."""
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    measure: Callable[[Day], None]
    note: str = ""
    """What a reader of the table must know."""
    small_rows: tuple[str, ...] | None = None
    """The rows that `--small` measures; None means all."""

    @property
    def file(self) -> str:
        """The name of the step's JSON file."""
        return f"{self.letter}-{self.name}.json"


@dataclass
class Day:
    """The context of a step's `measure`."""

    step: Step
    device: str
    """The device: `cuda` or `cpu`."""
    small: bool
    folder: Path
    """An empty folder for models and workspaces. It is removed afterwards."""
    record: Record

    @property
    def on_gpu(self) -> bool:
        """Whether this is a real day. A day on CPUs only tests the code."""
        return self.device == "cuda"

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows to measure."""
        return self.step.rows if not self.small or self.step.small_rows is None else self.step.small_rows

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[Figures]:
        """Collect the figures of a row and write them when the block ends.

        An exception becomes the row's failure, and the day continues.
        """
        figures: Figures = {}
        try:
            yield figures
        except Exception as error:
            traceback.print_exc()
            self.record.fail(name, sentence_of(error), figures)
        else:
            self.record.add(name, figures)
        sys.stdout.flush()


def sentence_of(error: BaseException) -> str:
    """Return the type and the first line of an error, for a table."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    return f"{type(error).__name__}: {line}"[:300]


# ---- the format of figures in a table -------------------------------------------------------------------------------


def number(digits: int = 3) -> Callable[[Any], str]:
    """Return a function that rounds to this many significant digits, without an exponent for large numbers."""

    def form(value: Any) -> str:
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"

    return form


def gibibytes(value: Any) -> str:
    """Render bytes as GiB."""
    return f"{value / GIB:.2f}" if value < 100 * GIB else f"{value / GIB:.0f}"


def percent(value: Any) -> str:
    """Render a share of one as percent."""
    return f"{100 * value:.0f} %"


def yes_or_no(value: Any) -> str:
    """Render a truth value as yes or no."""
    return "yes" if value else "no"
