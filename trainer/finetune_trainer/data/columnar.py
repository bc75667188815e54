"""Reads Parquet and Arrow files, a few rows at a time, and replaces the numbers of class labels by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow
from pyarrow import ipc, parquet

from finetune_trainer.data.raw_row import RawRow
from finetune_trainer.data.text_files import unreadable
from finetune_trainer.errors import InvalidError

ROWS_AT_ONCE = 100
"""The number of rows that are in memory at the same time. A row may hold an image of several megabytes."""


def read_columnar(kind: Literal["parquet", "arrow"], path: Path, name: str, field: str, uri: str) -> Iterator[RawRow]:
    """Yield the rows of a file; an empty file has no rows. Raises InvalidError if the file cannot be read."""
    if path.stat().st_size == 0:
        return
    try:
        with path.open("rb") as file:
            schema, batches = _parquet(file) if kind == "parquet" else _arrow(file)
            rows = (row for batch in batches for row in _rows(batch))
            for number, values in enumerate(named(rows, _features(schema)), 1):
                yield RawRow(f"{name}:{number}", values, path.parent, table=uri)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(field, uri, error) from None
        complaint = str(error).splitlines()[0]
        raise InvalidError(f"{field}: {uri} cannot be read as {kind} ({complaint}); write the file again") from None


def _parquet(file: Any) -> tuple[pyarrow.Schema, Iterable[pyarrow.RecordBatch]]:
    table = parquet.ParquetFile(file)
    return table.schema_arrow, table.iter_batches(ROWS_AT_ONCE)


def _arrow(file: Any) -> tuple[pyarrow.Schema, Iterable[pyarrow.RecordBatch]]:
    """Open an Arrow file, which may have either of Arrow's two formats.

    The `datasets` library writes the stream format, other tools write the file format, both with the same suffix.
    """
    try:
        stream = ipc.open_stream(file)
    except pyarrow.ArrowInvalid:
        file.seek(0)
        table = ipc.open_file(file)
        return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))
    return stream.schema, stream


def _rows(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()


def _features(schema: pyarrow.Schema) -> Mapping[str, Any]:
    features: Mapping[str, Any] = datasets.Features.from_arrow_schema(schema)
    return features


def named(rows: Iterable[dict[str, Any]], features: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows with class labels as names instead of numbers; a number without a name becomes None."""
    class_labels = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    for values in rows:
        for name, feature in class_labels.items():
            number = values[name]
            known = number is not None and 0 <= number < feature.num_classes
            values[name] = feature.int2str(number) if known else None
        yield values
