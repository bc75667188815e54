"""Reads folders of pictures: a picture's class is the name of its folder, unless a metadata file says more.

Pictures are not opened here: their paths are enough, and they may be many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.errors import InvalidError

PICTURE_SUFFIXES = frozenset(ImageFolder.EXTENSIONS)
"""Those that Pillow can read, in lower case."""
METADATA_STEM = "metadata"
"""metadata.csv, .jsonl or .parquet gives columns to the pictures beside it."""
FILE_NAME = "file_name"
"""Column of a metadata file: the picture of each row, relative to the metadata file. With a prefix, as in
front_file_name, it gives a column of that name."""
IMAGE, LABEL = "image", "label"
"""Columns that are made here."""


def read_pictures(pictures: Iterable[str], folder: Path, uri: str) -> Iterator[RawRow]:
    """One row for each picture, whose path is relative to `folder`: columns image and label."""
    for name in pictures:
        path = folder / name
        yield RawRow(name, {IMAGE: str(path), LABEL: path.parent.name}, folder, table=uri)


def with_pictures(
    rows: Iterable[RawRow | BadRow], pictures: frozenset[str], folder: Path, field: str
) -> Iterator[RawRow | BadRow]:
    """The rows of metadata files, with the pictures that they name. A row is called after its picture, if that is one
    of `pictures`, which are relative to `folder`.

    Raises InvalidError when a metadata file has no column for pictures.
    """
    for row in rows:
        if isinstance(row, BadRow) or row.folder is None:
            yield row
            continue
        if row.table and not any(map(_names_a_picture, row.values)):
            raise InvalidError(f"{field}: {row.table} has no column {FILE_NAME!r}; name the picture of each row there")
        values = dict(row.values)
        shown = row.id
        for column in filter(_names_a_picture, row.values):
            name = values.pop(column)
            path = row.folder / name if isinstance(name, str) and name else None
            values[column.removesuffix(FILE_NAME).removesuffix("_") or IMAGE] = None if path is None else str(path)
            if path and path.is_relative_to(folder) and str(path.relative_to(folder)) in pictures:
                shown = str(path.relative_to(folder))
        yield replace(row, id=shown, values=values)


def _names_a_picture(column: str) -> bool:
    return column == FILE_NAME or column.endswith(f"_{FILE_NAME}")
