"""Validates the rows one by one and gives their columns canonical names.

Messages never quote a row's text: they end up in the status of the FineTuneJob, which must not contain user data.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from finetune_trainer import contract
from finetune_trainer.contract import TASKS, Task
from finetune_trainer.data.bad_rows import BadRows
from finetune_trainer.data.columns import SeenColumns
from finetune_trainer.data.image_folder import PICTURE_SUFFIXES
from finetune_trainer.data.messages import SHAPE, conversation
from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.errors import InvalidError

FEATURES = {
    "text": datasets.Value("string"),
    "prompt": datasets.Value("string"),
    "completion": datasets.Value("string"),
    "messages": datasets.Value("string"),
    "image": datasets.Image(),
}
DEEP_MODES = ("I", "F")
"""The Pillow modes with 16 or 32 bits per channel. Pillow's conversion to 8 bits clips them, mostly to plain white."""


@dataclass(frozen=True)
class Row:
    """A validated row. `values` are the inputs under their canonical names."""

    id: str
    values: dict[str, Any]
    label: str | None
    digest: bytes
    """The sha256 of the model's input, without the label."""
    key: bytes
    """The same without case and white space. Two rows with equal keys are duplicates."""


class RowCheck:
    """Turns raw rows into rows with canonical columns, or reports what is wrong with them."""

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

    def rows(self, raw_rows: Iterable[RawRow | BadRow], field: str, uri: str) -> Iterator[Row]:
        """Yield the rows in their order, up to the first wrong one. `field` and `uri` name their source.

        Raises InvalidError with one message about all wrong rows after all rows have been read, and at once if a whole
        file is wrong.
        """
        columns, bad, first = SeenColumns(self.wanted), BadRows(), True
        for raw in raw_rows:
            first = False
            if isinstance(raw, BadRow):
                bad.add(raw.id, raw.sentence)
                continue
            columns.add(raw)
            try:
                row = self._row(raw)
            except InvalidError as error:
                bad.add(raw.id, str(error))
                continue
            if not bad.count:
                yield row
        if first:
            raise InvalidError(f"{field}: {uri} is empty; put at least two rows there or correct the URI")
        columns.refuse_absent(uri)
        if bad.count:
            raise InvalidError(bad.message())

    def _row(self, raw: RawRow) -> Row:
        content, key = hashlib.sha256(), hashlib.sha256()
        values = {}
        for name in self.inputs:
            column = self.wanted[name]
            values[name], read_by_model = self._readers[name](name, raw.values.get(column), raw)
            for digest, part in (
                (content, read_by_model),
                (key, read_by_model if name == "image" else _without_case_and_blanks(read_by_model)),
            ):
                digest.update(len(part).to_bytes(8, "big") + part)
        label = self._label(raw) if "label" in self.wanted else None
        return Row(raw.id, values, label, content.digest(), key.digest())

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
        """Return the stored image (its path if the row names a file, else its bytes) and the content of the file."""
        at = self._at(name, raw)
        if not isinstance(value, dict):
            value = {"bytes" if isinstance(value, (bytes, bytearray)) else "path": value}
        content, path = value.get("bytes"), value.get("path")
        if not (content or path):
            raise InvalidError(f"{at} is empty; give the path or the bytes of a picture")
        if (content and not isinstance(content, (bytes, bytearray))) or (not content and not isinstance(path, str)):
            raise InvalidError(f"{at} holds {_kind(content or path)}; give the path or the bytes of a picture")
        path = None if content else str((raw.folder or Path()) / path)
        content = bytes(content) if path is None else self._file(name, path, value["path"], raw)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                mode = picture.mode
        except Exception:  # Pillow's decoders raise exceptions of any type
            raise InvalidError(
                f"dataset.columns.{name}: picture {raw.id} cannot be decoded; replace or remove it"
            ) from None
        if mode.startswith(DEEP_MODES):
            raise InvalidError(
                f"dataset.columns.image: picture {raw.id} has more than 8 bits per channel, which models cannot read; "
                "scale it to 8 bits"
            )
        return {"bytes": None if path else content, "path": path}, content

    def _file(self, name: str, path: str, given: str, raw: RawRow) -> bytes:
        """Return the bytes of a file. `given` is the row's value, which should be a path but may be arbitrary text."""
        try:
            return Path(path).read_bytes()
        except ValueError:
            complaint = "not a path"
        except OSError as error:
            complaint = error.strerror or "not a path"
        if Path(given).suffix.lower() not in PICTURE_SUFFIXES:
            raise InvalidError(
                f"{self._at(name, raw)} holds text of {len(given)} characters, which is not the path of a picture; "
                "give the path or the bytes of a picture"
            )
        raise InvalidError(
            f"dataset.columns.{name}: picture {raw.id} cannot be read ({complaint}); "
            "paths are relative to the file that names them"
        )

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


def _without_case_and_blanks(text: bytes) -> bytes:
    """Return a UTF-8 text in lower case with single spaces, for the comparison of rows."""
    return " ".join(text.decode().casefold().split()).encode()


def _wanted_columns(columns: contract.Columns, task: Task) -> dict[str, str]:
    """Map the canonical names to the user's names. Raises InvalidError if a column that the task needs is not named."""
    named = {name: column for name, column in columns if column is not None}
    entry = TASKS[task]
    for names in entry.columns:
        if all(name in named for name in names):
            wanted = {name: named[name] for name in names}
            _refuse_one_column_for_two(wanted)
            return wanted
    raise InvalidError(f"dataset.columns: {task} needs {entry.columns_needed}; name the columns")


def _refuse_one_column_for_two(wanted: dict[str, str]) -> None:
    first: dict[str, str] = {}
    for name, column in wanted.items():
        if column in first:
            raise InvalidError(
                f"dataset.columns.{name}: {column!r} is also the column of dataset.columns.{first[column]}; "
                "name another column"
            )
        first[column] = name


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
