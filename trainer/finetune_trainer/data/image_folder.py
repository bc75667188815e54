"""Reads folders of images. The name of an image's folder is its class, unless a metadata file gives other columns.

Images are not opened here, since there may be many: the rows hold their paths only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.errors import InvalidError

PICTURE_SUFFIXES = frozenset(ImageFolder.EXTENSIONS)
"""The suffixes, in lower case, of images that Pillow can read."""
METADATA_STEM = "metadata"
"""The stem of metadata.csv, .jsonl or .parquet, which gives columns to the images in its folder."""
FILE_NAME = "file_name"
"""The column of a metadata file that names each row's image, relative to the metadata file.

A column with a prefix, as in front_file_name, becomes an image column named after the prefix (front).
"""
IMAGE, LABEL = "image", "label"
"""The names of the columns that this module creates."""


def read_pictures(pictures: Iterable[str], folder: Path, uri: str) -> Iterator[RawRow]:
    """Yield one row with the columns image and label for each image path, which is relative to `folder`."""
    for name in pictures:
        path = folder / name
        yield RawRow(name, {IMAGE: str(path), LABEL: path.parent.name}, folder, table=uri)


def with_pictures(
    rows: Iterable[RawRow | BadRow], pictures: frozenset[str], folder: Path, field: str
) -> Iterator[RawRow | BadRow]:
    """Yield the rows of metadata files with the paths of the images that they name.

    A row gets its image's path as its id, if the image is one of `pictures`, which are relative to `folder`. Raises
    InvalidError if a metadata file has no image column.
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
