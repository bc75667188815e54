"""Reads files, folders and data sets of the hub as raw rows, each with an id by which the user can find it.

All readers are generators, so only the names of the files are kept in memory.
"""

from __future__ import annotations

import difflib
import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.contract import Source
from finetune_trainer.data.columnar import read_columnar
from finetune_trainer.data.folder import files_below, may_be_data
from finetune_trainer.data.hub import Side, read_hub
from finetune_trainer.data.image_folder import METADATA_STEM, PICTURE_SUFFIXES, read_pictures, with_pictures
from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.data.splits import splits_of
from finetune_trainer.data.text_files import read_csv, read_json, read_json_lines
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
FORMAT_NAMES = "jsonl, json, csv, tsv, parquet or arrow"
SHOWN = 8
"""The number of names that a message lists; it counts the others."""
POINTER = b"version https://git-lfs"
"""The beginning of a Git LFS pointer, which stands in for a large file until `git lfs pull` fetches it."""


@dataclass(frozen=True)
class Reading:
    """The rows of a source, in the order of file names and lines, with notes for the user."""

    rows: Iterator[RawRow | BadRow]
    """The rows. The iterator raises InvalidError if a whole file is malformed."""
    notes: tuple[str, ...] = ()


def read(source: Source, field: str, side: Side, paths: Paths) -> Reading:
    """Begin to read a source. `field` is the name of the source in the spec.

    Raises InvalidError if the source does not exist, cannot be read, consists of several splits or has an unknown type,
    and ConnectionError if the hub cannot be reached.
    """
    path = paths.local(source.uri)
    if path is None:
        return Reading(read_hub(source, field, side, paths))
    try:
        if path.is_dir():
            return _read_folder(path, field, source.uri)
        if path.exists():
            return Reading(_read_file(path, path.name, field, source.uri))
    except OSError as error:  # for example a name that is too long, or a parent folder without permission
        raise InvalidError(
            f"{field}: {source.uri} cannot be read ({error.strerror}); correct the URI or the permissions"
        ) from None
    if "*" in path.name:
        return _read_matches(path, field, source.uri)
    raise InvalidError(f"{field}: {source.uri} does not exist{_hint(path, source.uri)}")


def _hint(path: Path, uri: str) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"; is it {uri.removesuffix('/').removesuffix(path.name)}{near[0]}?"
    return "; put the data there or correct the URI"


# ---- several files --------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, field: str, uri: str) -> Reading:
    base = uri.rstrip("/")
    files = files_below(folder, field, base)
    data_files = [file for file in files if _suffix(file) in FORMATS]
    pictures = [file for file in files if _suffix(file) in PICTURE_SUFFIXES]
    about_pictures = bool(pictures) and all(PurePosixPath(file).stem == METADATA_STEM for file in data_files)
    read_files = {*data_files, *pictures}
    left_out = _left_out(file for file in files if file not in read_files)
    if not data_files and not pictures:
        besides = f", only {left_out}" if left_out else ""
        raise InvalidError(
            f"{field}: folder {uri} holds no {FORMAT_NAMES} file and no picture{besides}; "
            "put the data there or correct the URI"
        )
    _refuse_splits(pictures if about_pictures else data_files, about_pictures, f"{field}: folder {uri}", base)
    note = f"{field}: folder {uri} also holds {left_out}, which are not read; save them as another type if they matter"
    notes = (note,) if left_out else ()
    if about_pictures and not data_files:
        return Reading(read_pictures(pictures, folder, base), notes)
    rows = _read_files(folder, data_files, field, f"folder {uri}", base)
    return Reading(with_pictures(rows, frozenset(pictures), folder, field) if about_pictures else rows, notes)


def _read_matches(pattern: Path, field: str, uri: str) -> Reading:
    """Read the files of one folder that match the URI, where `*` in its last part stands for any characters."""
    only_star = glob.escape(pattern.name).replace("[*]", "*")
    names = sorted(path.name for path in pattern.parent.glob(only_star) if path.is_file())
    data_files = [name for name in names if _suffix(name) in FORMATS and may_be_data(name)]
    if not data_files:
        raise InvalidError(f"{field}: {uri} matches no {FORMAT_NAMES} file; put the data there or correct the URI")
    base = uri.rpartition("/")[0]
    _refuse_splits(data_files, False, f"{field}: {uri}", base)
    return Reading(_read_files(pattern.parent, data_files, field, uri, base))


def _read_files(folder: Path, files: Sequence[str], field: str, source: str, base: str) -> Iterator[RawRow | BadRow]:
    """Read several files of one type. Raises InvalidError if they have different types.

    `files` are relative to `folder`. `source` is the name of all of them in a message, and `base` is the folder's URI
    without a slash at the end.
    """
    formats = sorted({FORMATS[_suffix(file)] for file in files})
    if len(formats) > 1:
        raise InvalidError(f"{field}: {source} mixes {' and '.join(formats)} files; keep one type or name one file")
    return (row for file in files for row in _read_file(folder / file, file, field, f"{base}/{file}"))


def _refuse_splits(files: Sequence[str], pictures: bool, source: str, base: str) -> None:
    """Raise InvalidError if the files are several splits: a training on all of them would include the test rows."""
    splits = splits_of(files, pictures)
    if not splits:
        return
    named = [path for paths in splits.values() for path in paths]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    first, second = (paths[0] for paths in list(splits.values())[:2])
    if pictures and not set(named).isdisjoint(files):
        remedy = "move the pictures of each to a folder of its own and name one as dataset.uri, another one as "
        remedy += "dataset.evaluation.uri"
    else:
        remedy = f"name one of them as dataset.uri, as in {base}/{first}, and another one as dataset.evaluation.uri, "
        remedy += f"as in {base}/{second}"
    raise InvalidError(f"{source} holds the splits {', '.join(named[:SHOWN])}{more}; {remedy}")


def _left_out(files: Iterable[str]) -> str:
    """Return the number of files of each type, as in `12 .heic files, 1 .svg file`.

    Files without a suffix are not counted.
    """
    counts = Counter(suffix for file in files if (suffix := _suffix(file)))
    shown = [f"{count} {suffix} file{'s' * (count > 1)}" for suffix, count in counts.most_common(SHOWN)]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN} more types" if len(counts) > SHOWN else "")


# ---- one file -------------------------------------------------------------------------------------------------------


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _read_file(path: Path, name: str, field: str, uri: str) -> Iterator[RawRow | BadRow]:
    kind = FORMATS.get(_suffix(name))
    if kind is not None and _is_pointer(path):
        raise InvalidError(f"{field}: {uri} is a pointer of Git LFS and not the file itself; run 'git lfs pull' there")
    match kind:
        case "jsonl":
            return read_json_lines(path, name, field, uri)
        case "json":
            return read_json(path, name, field, uri)
        case "csv":
            return read_csv(path, name, field, uri)
        case "parquet" | "arrow" as columnar:
            return read_columnar(columnar, path, name, field, uri)
    suffix = PurePosixPath(name).suffix
    what = f"type {suffix}, which is not known" if suffix else "no suffix, so its type is not known"
    raise InvalidError(f"{field}: {uri} has {what}; give {FORMAT_NAMES}, or a folder of them or of pictures")


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False  # the reader reports the reason
