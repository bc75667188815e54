"""Checks one row after the other and gives its columns their canonical names, or says what is wrong with which.

No sentence quotes a row's text: errors end up in the status of the FineTuneJob, which is no place for data.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from finetune_trainer import contract
from finetune_trainer.contract import TASKS, Task
from finetune_trainer.data.files import RawRow
from finetune_trainer.data.messages import SHAPE, conversation
from finetune_trainer.errors import InvalidError

FEATURES = {
    "text": datasets.Value("string"),
    "prompt": datasets.Value("string"),
    "completion": datasets.Value("string"),
    "messages": datasets.Value("string"),
    "image": datasets.Image(),
}
SHOWN = 8
"""Names in a list that a sentence gives before it says how many more there are."""
LONGEST_NAME = 40
"""Characters of a label, a role or a column's name. What is longer is likely somebody's text in the wrong place."""
DEEP_MODES = ("I", "F")
"""Of Pillow, for channels of 16 or 32 bits: its conversion to 8 bits does not scale but cuts, mostly to plain white."""


@dataclass(frozen=True)
class Row:
    """A row that was checked. `values` are the inputs under their canonical names."""

    id: str
    values: dict[str, Any]
    label: str | None
    digest: bytes
    """sha256 of what the model reads; the label is no part of it."""


class RowCheck:
    """Turns raw rows into canonical ones, or says in one sentence what is wrong with which."""

    def __init__(self, columns: contract.Columns, task: Task) -> None:
        self.wanted = _wanted_columns(columns, task)
        self.inputs = tuple(name for name in self.wanted if name != "label")
        self._readers: dict[str, Callable[[str, Any, RawRow], Any]] = {
            "text": self._text,
            "prompt": self._text,
            "completion": self._text,
            "messages": self._messages,
            "image": self._image,
        }

    def rows(self, raw_rows: Iterator[RawRow], field: str, uri: str) -> Iterator[Row]:
        first = True
        for raw in raw_rows:
            if first:
                self._refuse_absent_columns(raw, uri)
                first = False
            yield self._row(raw)
        if first:
            raise InvalidError(f"{field}: {uri} is empty; put at least two rows there or correct the URI")

    def _refuse_absent_columns(self, raw: RawRow, uri: str) -> None:
        for name, column in self.wanted.items():
            if column not in raw.values:
                nearest = sorted(
                    map(str, raw.values),
                    key=lambda there: -difflib.SequenceMatcher(None, column.lower(), there.lower()).ratio(),
                )
                raise InvalidError(
                    f"dataset.columns.{name}: {uri} has no column {column!r}; its columns are {_listed(nearest)}"
                )

    def _row(self, raw: RawRow) -> Row:
        content = hashlib.sha256()
        values = {}
        for name in self.inputs:
            column = self.wanted[name]
            values[name], read_by_model = self._readers[name](name, raw.values.get(column), raw)
            content.update(len(read_by_model).to_bytes(8, "big") + read_by_model)
        label = self._label(raw) if "label" in self.wanted else None
        return Row(raw.id, values, label, content.digest())

    def _at(self, name: str, raw: RawRow) -> str:
        return f"dataset.columns.{name}: {raw.id}: column {self.wanted[name]!r}"

    def _text(self, name: str, value: Any, raw: RawRow) -> tuple[str, bytes]:
        if isinstance(value, str) and value.strip():
            return value, self._encoded(name, value, raw)
        if value is None or isinstance(value, str):
            raise InvalidError(f"{self._at(name, raw)} is empty; fill it in or remove the row")
        raise InvalidError(
            f"{self._at(name, raw)} holds {_kind(value)}, not text; write it as a string or name another column"
        )

    def _messages(self, name: str, value: Any, raw: RawRow) -> tuple[str, bytes]:
        at = self._at(name, raw)
        if not isinstance(value, list):
            raise InvalidError(f"{at} holds {_kind(value)}; write {SHAPE}")
        text, read_by_model = conversation(value, raw.values, raw.id, at)
        return text, self._encoded(name, read_by_model, raw)

    def _encoded(self, name: str, text: str, raw: RawRow) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise InvalidError(
                f"{self._at(name, raw)} holds half a surrogate pair, which is no character; mend or remove the row"
            ) from None

    def _image(self, name: str, value: Any, raw: RawRow) -> tuple[dict[str, Any], bytes]:
        at = self._at(name, raw)
        if isinstance(value, (bytes, bytearray)):
            value = {"bytes": bytes(value), "path": None}
        elif isinstance(value, str) and value:
            value = {"bytes": None, "path": value}
        if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
            what = "is empty" if value in (None, "", {}) else f"holds {_kind(value)}"
            raise InvalidError(f"{at} {what}; give the path or the bytes of a picture")
        content: bytes = value.get("bytes") or b""
        path = None if content else str((raw.folder or Path()) / value["path"])
        shown = raw.id if content or value["path"].endswith(raw.id) else f"{raw.id} ({value['path']})"
        if path is not None:
            try:
                content = Path(path).read_bytes()
            except OSError as error:
                raise InvalidError(
                    f"dataset.columns.{name}: picture {shown} cannot be read ({error.strerror}); "
                    "paths are relative to the file that names them"
                ) from None
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                mode = picture.mode
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            raise InvalidError(
                f"dataset.columns.{name}: picture {shown} cannot be decoded; replace or remove it"
            ) from None
        if mode.startswith(DEEP_MODES):
            raise InvalidError(
                f"dataset.columns.image: picture {shown} has more than 8 bits per channel, which models cannot read; "
                "scale it to 8 bits"
            )
        return {"bytes": None if path else content, "path": path}, content

    def _label(self, raw: RawRow) -> str:
        value = raw.values.get(self.wanted["label"])
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return str(int(value)) if value == int(value) else str(value)
        if isinstance(value, str) and value.strip():
            self._encoded("label", value, raw)
            return value.strip()
        if value is None or isinstance(value, (str, float)):
            raise InvalidError(f"{self._at('label', raw)} has no label; fill it in or remove the row")
        raise InvalidError(f"{self._at('label', raw)} holds {_kind(value)}; a label is a name or a number")


def _wanted_columns(columns: contract.Columns, task: Task) -> dict[str, str]:
    """Canonical name -> the user's name. Raises InvalidError when the task needs a column that is not named."""
    named = {name: column for name, column in columns if column is not None}
    entry = TASKS[task]
    for names in entry.columns:
        if all(name in named for name in names):
            return {name: named[name] for name in names}
    raise InvalidError(f"dataset.columns: {task} needs {entry.columns_needed}; name the columns")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case bytes():
            return "bytes"
    return f"a {type(value).__name__}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name if len(name) <= LONGEST_NAME else quoted(name) for name in names[:SHOWN]) + more


def quoted(name: str) -> str:
    """A name as a sentence gives it; of one that is too long to be a name, the length alone."""
    return repr(name) if len(name) <= LONGEST_NAME else f"one of {len(name)} characters"
