"""Knows which columns the rows of a source have, and says so when one that is wanted is in none of them.

A name of a column may be somebody's data: a CSV file without a header has a row in the place of the names, and objects
in JSON may have ids as keys. So a sentence lists only what is surely or very likely a name.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_trainer.data.raw_row import RawRow
from finetune_trainer.errors import InvalidError

SHOWN = 8
"""Names in a list that a sentence gives before it says how many more there are."""
LONGEST_NAME = 40
"""Characters of a column's name. What is longer is likely somebody's text in the wrong place."""
REMEMBERED = 1000
"""Different names that are counted. Objects in JSON may have a new one in each row."""
ALIKE = 0.8
"""The ratio of difflib from which on a name is a misspelt one, as `lable` is of `label`; `test` is none of `text`."""


class SeenColumns:
    """The columns that rows have had so far. `wanted` maps the names in dataset.columns to the user's names."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        self._missing = set(wanted.values())
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self._table: str | None = None

    def add(self, raw: RawRow) -> None:
        """Raises InvalidError at once when a whole table lacks a column."""
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
        """Raises InvalidError when no row has had a column that is wanted."""
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
    """From 0 to 1; of a long name 0, because the comparison takes the square of its length."""
    if len(name) > LONGEST_NAME:
        return 0.0
    return difflib.SequenceMatcher(None, column.lower(), name.lower()).ratio()


def listed(names: Sequence[str]) -> str:
    """The first of the names; of one that is too long to be a name, the length alone."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        ", ".join(
            name if len(name) <= LONGEST_NAME and name.isprintable() else f"one of {len(name)} characters"
            for name in names[:SHOWN]
        )
        + more
    )
