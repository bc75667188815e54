"""Reads files, folders and hub data sets as raw rows, each with the name that people find it by.

Columnar files, image folders and the hub are streamed by the `datasets` library. JSON lines and CSV are read here,
line by line, because that library guesses types (a text that looks like a date becomes a date) and cannot say which
line of which file is malformed. Nothing is kept in memory: every reader is a generator.
"""

from __future__ import annotations

import csv
import difflib
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from finetune_trainer.contract import Source
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

Side = Literal["train", "evaluation"]

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
FORMAT_NAMES = "jsonl, json, csv, parquet or arrow"
METADATA_STEM = "metadata"
"""metadata.csv, .jsonl or .parquet of an image folder gives columns to its pictures."""
BOOKKEEPING = {"dataset_info.json", "state.json", "dataset_dict.json"}
"""What `Dataset.save_to_disk` writes beside its arrow files."""
SPLIT_NAMES = {"train", "training", "validation", "valid", "val", "dev", "eval", "evaluation", "test"}
HUB_SPLITS: Mapping[Side, tuple[str, ...]] = {
    "train": ("train",),
    "evaluation": ("validation", "test", "dev", "eval"),
}


@dataclass(frozen=True)
class RawRow:
    """A row as it was found. `id` is `<file>:<line>` or, in an image folder, the picture's path."""

    id: str
    values: Mapping[str, Any]
    folder: Path | None
    """Where relative paths in the row start."""


def read(source: Source, field: str, side: Side, paths: Paths) -> Iterator[RawRow]:
    """The rows of a source, in the order of file names and lines. `field` is the spec's name for the source.

    Raises InvalidError, at once or while reading, when the source is absent, unreadable, malformed or of no known type;
    ConnectionError when the hub cannot be reached.
    """
    path = paths.local(source.uri)
    if path is None:
        return _read_hub(source, field, side, paths)
    if not path.exists():
        raise InvalidError(f"{field}: {source.uri} does not exist{_hint(path, source.uri)}")
    if path.is_file():
        return _read_file(path, path.name, field, source.uri, paths)
    return _read_folder(path, field, source.uri, paths)


def _hint(path: Path, uri: str) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"; is it {uri.removesuffix('/').removesuffix(path.name)}{near[0]}?"
    return "; put the data there or correct the URI"


def _read_folder(path: Path, field: str, uri: str, paths: Paths) -> Iterator[RawRow]:
    entries = [entry for entry in sorted(path.rglob("*")) if not _is_hidden(entry.relative_to(path))]
    files = [entry for entry in entries if entry.is_file() and entry.name not in BOOKKEEPING]
    _refuse_splits(path, files, field, uri)
    data_files = [file for file in files if file.suffix.lower() in FORMATS]
    pictures = [file for file in files if file.suffix.lower() in ImageFolder.EXTENSIONS]
    if pictures and all(file.stem == METADATA_STEM for file in data_files):
        return _read_image_folder(path, field, uri, paths)
    formats = sorted({FORMATS[file.suffix.lower()] for file in data_files})
    if not formats:
        raise InvalidError(
            f"{field}: folder {uri} holds no {FORMAT_NAMES} file and no picture; put the data there or correct the URI"
        )
    if len(formats) > 1:
        raise InvalidError(f"{field}: folder {uri} mixes {' and '.join(formats)} files; keep one type or name one file")
    return (
        row
        for file in data_files
        for row in _read_file(
            file, str(file.relative_to(path)), field, f"{uri.rstrip('/')}/{file.relative_to(path)}", paths
        )
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _refuse_splits(path: Path, files: list[Path], field: str, uri: str) -> None:
    """A folder of splits would train on its own test rows, so the user has to name one."""
    tops = {file.relative_to(path).parts[0] for file in files}
    splits = sorted(top for top in tops if top.split(".")[0].lower() in SPLIT_NAMES)
    if len(splits) > 1:
        base = uri.rstrip("/")
        raise InvalidError(
            f"{field}: folder {uri} holds the splits {', '.join(splits)}; name one of them, "
            f"as in {base}/{splits[-1]}, and another one in dataset.evaluation.uri"
        )


def _read_file(path: Path, name: str, field: str, uri: str, paths: Paths) -> Iterator[RawRow]:
    match FORMATS.get(path.suffix.lower()):
        case "jsonl":
            return _read_json_lines(path, name, field, uri)
        case "json":
            return _read_json(path, name, field, uri)
        case "csv":
            return _read_csv(path, name, field, uri)
        case "parquet" | "arrow" as kind:
            return _read_columnar(kind, path, name, field, uri, paths)
    what = f"type {path.suffix}, which is not known" if path.suffix else "no suffix, so its type is not known"
    raise InvalidError(f"{field}: {uri} has {what}; give {FORMAT_NAMES}, or a folder of them or of pictures")


def _lines(path: Path, field: str, uri: str) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InvalidError(f"{field}: {uri} line {number} is not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise _unreadable(field, uri, error) from None


def _unreadable(field: str, uri: str, error: OSError) -> InvalidError:
    return InvalidError(f"{field}: {uri} cannot be read ({error.strerror or error}); check its permissions")


def _read_json_lines(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path, field, uri), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.rstrip())
        except ValueError as error:
            raise InvalidError(
                f"{field}: {uri} line {number} is not JSON ({_json_complaint(error)}); mend or remove that line"
            ) from None
        if not isinstance(values, dict):
            raise InvalidError(f"{field}: {uri} line {number} is not a JSON object; write one {{…}} per line")
        yield RawRow(f"{name}:{number}", values, path.parent)


def _json_complaint(error: ValueError) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "number too long"


def _read_json(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow]:
    """A `.json` file is one list of objects or, as many tools write it, JSON lines."""
    first = next((line.strip() for line in _lines(path, field, uri) if line.strip()), "")
    if first == "{":
        raise InvalidError(f"{field}: {uri} is one JSON object; write a list of objects, or one object on each line")
    if not first.startswith("["):
        yield from _read_json_lines(path, name, field, uri)
        return
    try:
        rows = json.loads("".join(_lines(path, field, uri)))
    except json.JSONDecodeError as error:
        raise InvalidError(
            f"{field}: {uri} line {error.lineno} is not JSON ({_json_complaint(error)}); mend that line"
        ) from None
    for number, values in enumerate(rows, 1):
        if not isinstance(values, dict):
            raise InvalidError(f"{field}: {uri} entry {number} of the list is not a JSON object; write {{…}}")
        yield RawRow(f"{name}:{number}", values, path.parent)


def _read_csv(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(_lines(path, field, uri), strict=True)
    line = 1
    try:
        header = next(reader, [])
        for place, column in enumerate(header, 1):
            if column and column in header[: place - 1]:
                raise InvalidError(
                    f"{field}: {uri} has the same name over columns {header.index(column) + 1} and {place}; rename one"
                )
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise InvalidError(
                    f"{field}: {uri} line {line} has {len(cells)} cells where the header has {len(header)}; "
                    "mend that line or quote the cells that hold commas"
                )
            if cells:
                yield RawRow(f"{name}:{line}", dict(zip(header, cells, strict=True)), path.parent)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidError(f"{field}: {uri} line {line} is not CSV ({error}); mend or remove that line") from None


def _read_columnar(kind: str, path: Path, name: str, field: str, uri: str, paths: Paths) -> Iterator[RawRow]:
    if path.stat().st_size == 0:
        return
    try:
        stream = _stream(kind, [glob.escape(str(path))], paths)
        for number, values in enumerate(_named(stream), 1):
            yield RawRow(f"{name}:{number}", values, path.parent)
    except (pyarrow.ArrowException, OSError) as error:
        complaint = str(error).splitlines()[0]
        raise InvalidError(f"{field}: {uri} cannot be read as {kind} ({complaint}); write the file again") from None


def _read_image_folder(path: Path, field: str, uri: str, paths: Paths) -> Iterator[RawRow]:
    """A picture's class is the name of its folder, unless a metadata file gives columns by `file_name`."""
    try:
        stream = _stream("imagefolder", [glob.escape(str(path)) + "/**"], paths, drop_labels=False)
        for values in _named(stream):
            picture = values.get("image") or {}
            name = str(Path(picture["path"]).relative_to(path)) if picture.get("path") else "?"
            yield RawRow(name, values, path)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        complaint = str(error).replace(str(path), uri.rstrip("/")).splitlines()[0]
        raise InvalidError(
            f"{field}: {uri} cannot be read as an image folder ({complaint}); mend its metadata"
        ) from None


def _stream(kind: str, data_files: list[str], paths: Paths, **options: Any) -> datasets.IterableDataset:
    return datasets.load_dataset(
        kind,
        data_files={"train": data_files},
        split="train",
        streaming=True,
        cache_dir=str(paths.scratch / "datasets"),
        **options,
    )


def _read_hub(source: Source, field: str, side: Side, paths: Paths) -> Iterator[RawRow]:
    name = source.uri.removeprefix("hf://")
    shown = f"{source.uri} (revision {source.revision})" if source.revision else source.uri
    try:
        splits = datasets.load_dataset(
            name, revision=source.revision, streaming=True, cache_dir=str(paths.scratch / "datasets")
        )
    except datasets.exceptions.DatasetNotFoundError:
        raise InvalidError(
            f"{field}: {shown} is not on the hub or not open to this token; correct the name or set model.secretName"
        ) from None
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        raise InvalidError(
            f"{field}: {shown} is loaded by a script of its own, and none is ever run; name a data set of plain files"
        ) from None
    except ValueError as error:
        raise InvalidError(
            f"{field}: {shown} cannot be loaded ({str(error).splitlines()[0]}); name another data set"
        ) from None
    split = next((split for split in HUB_SPLITS[side] if split in splits), None)
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split is None:
        wanted = " or ".join(HUB_SPLITS[side])
        raise InvalidError(
            f"{field}: {shown} has no split {wanted}, only {', '.join(splits)}; save the one you want as a file"
        )
    return (RawRow(f"{split}:{number}", values, None) for number, values in enumerate(_named(splits[split]), 1))


def _named(stream: datasets.IterableDataset) -> Iterable[Mapping[str, Any]]:
    """Rows with the names of class labels instead of their numbers, pictures not yet decoded."""
    features = stream.features or {}
    class_labels = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    for values in stream.decode(False):
        for name, feature in class_labels.items():
            number = values[name]
            values[name] = feature.int2str(number) if number is not None and number >= 0 else None
        yield values
