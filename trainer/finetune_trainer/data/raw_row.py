"""The results of the file readers: a row as it was read, or the place of a row that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RawRow:
    """A row as it was read. Its `id` is `<file>:<line>` or, in an image folder, the image's path."""

    id: str
    values: Mapping[str, Any]
    folder: Path | None
    """The folder to which paths in the row are relative."""
    table: str | None = None
    """The URI of the file, if its header or schema gives all rows the same columns; None if each row names its own."""
    has_header: bool = False
    """Whether the column names come from a line of text, which may be data if the user forgot the header."""


@dataclass(frozen=True)
class BadRow:
    """The place of a row that cannot be read, although the following rows can."""

    id: str
    sentence: str
    """The description of the mistake, written like the message of an InvalidError."""
