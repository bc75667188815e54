"""Records which columns the rows of a source have, and reports a required column that no row has.

A column's name may itself be user data: a CSV file without a header has a row of data in its place, and JSON objects
may use ids as keys. Error messages therefore list only names that are certainly or very likely column names.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_trainer.data.raw_row import RawRow
from finetune_trainer.errors import InvalidError

SHOWN = 8
"""The number of names that a message lists; it counts the others."""
LONGEST_NAME = 40
"""The greatest length of a column's name in characters. A longer name is probably user data in the wrong place."""
REMEMBERED = 1000
"""The greatest number of different names that are counted. JSON objects may have a new name in each row."""
ALIKE = 0.8
"""The difflib ratio from which a name is a misspelling: lable matches label, but test does not match text."""


class SeenColumns:
    """The columns of the rows read so far. `wanted` maps the names in dataset.columns to the user's column names."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        self._missing = set(wanted.values())
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._table: str | None = None

    def add(self, raw: RawRow) -> None:
        """Record the columns of a row. Raises InvalidError at once if the row's whole table lacks a required column."""
        if raw.table is not None and raw.table != self._table:
            self._table = raw.table
            lacking = [column for column in self._wanted.values() if column not in raw.values]
            if lacking:
                raise self._absent(lacking[0], raw.table, list(raw.values), not raw.has_header, raw.has_header)
        if self._missing:
            self._missing -= raw.values.keys()
            self._rows += 1
            self._counts.update(name for name in raw.values if name in self._counts or len(self._counts) < REMEMBERED)

    def refuse_absent(self, uri: str) -> None:
        """Raise InvalidError if a required column occurs in no row."""
        for column in self._wanted.values():
            if self._rows and column in self._missing:
                usual = [name for name, count in self._counts.items() if 2 * count > self._rows]
                raise self._absent(column, uri, usual, sure=self._rows > 1, header=False)

    def _absent(self, column: str, uri: str, names: Sequence[str], sure: bool, header: bool) -> InvalidError:
        field = next(name for name, wanted in self._wanted.items() if wanted == column)
        says = f"dataset.columns.{field}: {uri} has no column {column!r}"
        alike = any(_likeness(name, wanted) >= ALIKE for name in names for wanted in self._wanted.values())
        if names and (sure or alike):
            nearest = sorted(names, key=lambda name: -_likeness(name, column))
            return InvalidError(f"{says}; its columns are {listed(nearest)}")
        if header:
            return InvalidError(
                f"{says}; it seems to have no header, for no cell of its first line is like a name in dataset.columns; "
                "put the names of the columns above the rows or correct dataset.columns"
            )
        return InvalidError(f"{says} or any that is like it; correct dataset.columns")


def _likeness(name: str, column: str) -> float:
    """Return the similarity of two names, from 0 to 1.

    Long names get 0, because the time of the comparison grows with the square of their length.
    """
    if len(name) > LONGEST_NAME:
        return 0.0
    return difflib.SequenceMatcher(None, column.lower(), name.lower()).ratio()


def listed(names: Sequence[str]) -> str:
    """Return the first names as one text; a name that is too long is described by its length only."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        ", ".join(
            name if len(name) <= LONGEST_NAME and name.isprintable() else f"one of {len(name)} characters"
            for name in names[:SHOWN]
        )
        + more
    )
