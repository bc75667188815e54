"""What the readers of files give: a row as it was found, or the place of one that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RawRow:
    """A row as it was found. `id` is `<file>:<line>` or, in an image folder, the picture's path."""

    id: str
    values: Mapping[str, Any]
    folder: Path | None
    """Where relative paths in the row start."""
    table: str | None = None
    """URI of the file, if its header or schema gives all its rows the same columns; None if each row names its own."""
    has_header: bool = False
    """Whether the names of the columns are a line of text, which is data if somebody forgot the header."""


@dataclass(frozen=True)
class BadRow:
    """The place of a row that cannot be read. Those after it can."""

    id: str
    sentence: str
    """What is wrong with it, as an InvalidError says it."""
