"""Reads JSON lines, JSON lists and CSV, line by line.

The `datasets` library is not used here, because it guesses types (a text that looks like a date becomes a date) and
does not report the malformed line. Reading continues after a malformed line, so that one message can name all of them.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.errors import InvalidError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""The characters that separate the cells of a line, and their names in messages."""


def _lines(path: Path, field: str, uri: str) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InvalidError(f"{field}: {uri} line {number} is not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise unreadable(field, uri, error) from None


def unreadable(field: str, uri: str, error: OSError) -> InvalidError:
    """Return the error for a file or folder that the operating system does not let the trainer read."""
    return InvalidError(f"{field}: {uri} cannot be read ({error.strerror or error}); check its permissions")


# ---- JSON -----------------------------------------------------------------------------------------------------------


def read_json_lines(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow | BadRow]:
    """Yield one row for each line; empty lines are skipped. Raises InvalidError if the file is not UTF-8 text."""
    for number, line in enumerate(_lines(path, field, uri), 1):
        if not line.strip():
            continue
        row, at = f"{name}:{number}", f"{field}: {uri} line {number}"
        try:
            values = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            yield BadRow(row, f"{at} is not JSON ({_json_complaint(error)}); mend or remove that line")
            continue
        if isinstance(values, dict):
            yield RawRow(row, values, path.parent)
        else:
            yield BadRow(row, f"{at} is not a JSON object; write one {{…}} per line")


def _json_complaint(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "number too long" if isinstance(error, ValueError) else "nested too deeply"


def read_json(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a `.json` file, which is one list of objects or JSON lines, as many tools write it.

    Raises InvalidError if the list cannot be parsed, because the beginning of its next object is unknown then.
    """
    first = next((line.strip() for line in _lines(path, field, uri) if line.strip()), "")
    if first == "{":
        raise InvalidError(f"{field}: {uri} is one JSON object; write a list of objects, or one object on each line")
    if not first.startswith("["):
        yield from read_json_lines(path, name, field, uri)
        return
    try:
        rows = json.loads("".join(_lines(path, field, uri)))
    except json.JSONDecodeError as error:
        raise InvalidError(
            f"{field}: {uri} line {error.lineno} is not JSON ({_json_complaint(error)}); mend that line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{field}: {uri} is not JSON ({_json_complaint(error)}); mend it") from None
    for number, values in enumerate(rows, 1):
        if isinstance(values, dict):
            yield RawRow(f"{name}:{number}", values, path.parent)
        else:
            sentence = f"{field}: {uri} entry {number} of the list is not a JSON object; write {{…}}"
            yield BadRow(f"{name}:{number}", sentence)


# ---- CSV ------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a CSV file, whose cells may be quoted to contain separators or line breaks.

    The header determines the separator. Raises InvalidError if the header cannot be read or has a name twice.
    """
    csv.field_size_limit(sys.maxsize)
    separator = _separator(next((line for line in _lines(path, field, uri) if line.strip()), ""), path.suffix.lower())
    reader = csv.reader(_lines(path, field, uri), strict=True, delimiter=separator)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        row, at = f"{name}:{line}", f"{field}: {uri} line {line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            sentence = f"{at} is not CSV ({_csv_complaint(error, separator)}); mend or remove that line"
            if header is None:
                raise InvalidError(sentence) from None
            yield BadRow(row, sentence)
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
            _refuse_equal_names(header, field, uri)
        elif len(cells) == len(header):
            yield RawRow(row, dict(zip(header, cells, strict=True)), path.parent, table=uri, has_header=True)
        else:
            yield BadRow(
                row,
                f"{at} has {len(cells)} cells where the header has {len(header)}; "
                f"mend that line or quote the cells that hold {SEPARATORS[separator]}",
            )


def _separator(header: str, suffix: str) -> str:
    """Return the first of the usual separators that occurs in the header outside of quotes."""
    usual = "\t,;" if suffix == ".tsv" else ",;\t"
    bare = "".join(header.split('"')[::2])
    return next((separator for separator in usual if separator in bare), usual[0])


def _refuse_equal_names(header: list[str], field: str, uri: str) -> None:
    places: dict[str, int] = {}
    for place, column in enumerate(header, 1):
        if column and column in places:
            raise InvalidError(
                f"{field}: {uri} has the same name over columns {places[column]} and {place}; rename one"
            )
        places[column] = place


def _csv_complaint(error: csv.Error, separator: str) -> str:
    if "expected after" in str(error):
        return f"a cell in quotes goes on after its closing quote; between cells this file has {SEPARATORS[separator]}"
    return str(error)
