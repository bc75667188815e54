"""Finds the splits (train, validation, test and others) of a folder from the paths of its files alone.

Data sets mark their splits in names: a folder `train` beside a folder `test`, `x_train.csv` beside `x_test.csv`,
`data/train-00000-of-00002.parquet` beside `data/test-00000-of-00001.parquet`. If such a folder were read as a whole,
the training would include its own test rows. A single name proves nothing: `train` may be a class of vehicles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile

KEYWORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val"), "validation"),
    **dict.fromkeys(("dev", "devel"), "dev"),
    **dict.fromkeys(("eval", "evaluation"), "evaluation"),
    **dict.fromkeys(("holdout", "heldout"), "holdout"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The words that mark a split in a name, and the names of the splits."""
USUAL_ORDER = tuple(dict.fromkeys(KEYWORDS.values()))
TWO_WORDS = re.compile(r"(hold|held)[-_. ]out", re.IGNORECASE)
ENDINGS = ("set", "data", "split")
"""The endings with which a keyword may form one word, as in trainset."""
WORD = re.compile(r"[^\W\d_]+")
CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")

Parts = tuple[str, ...]
"""The parts of a path."""


def splits_of(files: Iterable[str], pictures: bool) -> dict[str, tuple[str, ...]]:
    """Return the splits of a folder; empty if it has fewer than two, because then the user need not choose.

    `files` are the paths of its data files, relative to the folder, with `/` between their parts. `pictures` means that
    they are images, whose folders are classes unless they clearly look like splits. The keys of the result are the
    names of the splits. The values are paths relative to the folder: each names a folder, a file or, with `*`, several
    files of one folder, and together they cover the split.
    """
    paths = sorted({tuple(file.split("/")) for file in files})
    return _in_one_folder(paths, (), pictures) or _in_many_folders(paths, pictures)


def _in_one_folder(paths: Sequence[Parts], folder: Parts, pictures: bool) -> dict[str, tuple[str, ...]]:
    """Return the splits among the entries of `folder` or else of the first subfolder that has some."""
    below: dict[Parts, list[Parts]] = {}
    for path in paths:
        below.setdefault(path[: len(folder) + 1], []).append(path)
    named = {entry: split for entry in below if (split := _split_in(entry[-1]))}
    if len(set(named.values())) > 1:
        needed = len(below) if pictures else len(below) / 2
        # The names of individual images prove nothing, unless all images are named like splits.
        telling = {entry: split for entry, split in named.items() if not pictures or below[entry] != [entry]}
        if len(named) >= needed or _are_alike(telling, pictures):
            return _grouped(named, {path for path in paths if path[:-1] == folder})
    for entry, files in below.items():
        if files != [entry] and (found := _in_one_folder(files, entry, pictures)):
            return found
    return {}


def _in_many_folders(paths: Sequence[Parts], pictures: bool) -> dict[str, tuple[str, ...]]:
    """Return the splits that are in different folders, as in a/train.csv and b/test.csv."""
    named = {}
    for path in dict.fromkeys(path[:-1] for path in paths) if pictures else paths:
        for place, name in enumerate(path, 1):
            if split := _split_in(name):
                named[path[:place]] = split
                break
    if len(set(named.values())) < 2 or not _are_alike(named, pictures):
        return {}
    return _grouped(named, set(paths))


def _are_alike(named: Mapping[Parts, str], pictures: bool) -> bool:
    """Return whether two names of different splits differ only in the split, as x_train and x_test do.

    A data file whose name is only a split, such as test.csv, matches any other name of a split. A folder of images does
    not: the classes `train` and `test tube` are not splits.
    """
    by_rest: dict[tuple[str, ...], set[str]] = {}
    for entry, split in named.items():
        by_rest.setdefault(_rest(entry[-1]), set()).add(split)
    return any(len(splits) > 1 for splits in by_rest.values()) or (not pictures and () in by_rest)


def _grouped(named: Mapping[Parts, str], files: set[Parts]) -> dict[str, tuple[str, ...]]:
    """Return the paths of each split. Files of one folder become one path with `*` if it matches no other file."""
    groups: dict[tuple[str, Parts], list[Parts]] = {}
    for entry, split in named.items():
        groups.setdefault((split, entry[:-1] if entry in files else entry), []).append(entry)
    splits: dict[str, list[str]] = {}
    for (split, folder), entries in groups.items():
        names = [entry[-1] for entry in entries]
        if len(names) > 1:
            start, end = _common_ends(names)
            beside = [file[-1] for file in files if file[:-1] == folder]
            matched = [name for name in beside if name.startswith(start) and name.endswith(end)]
            if len(matched) == len(names):
                names = [f"{start}*{end}"]
        splits.setdefault(split, []).extend("/".join((*entries[0][:-1], name)) for name in names)
    return {split: tuple(sorted(splits[split])) for split in sorted(splits, key=_place)}


def _place(split: str) -> tuple[int, str]:
    return (USUAL_ORDER.index(split) if split in USUAL_ORDER else len(USUAL_ORDER), split)


def _common_ends(names: Sequence[str]) -> tuple[str, str]:
    """Return the names' common prefix and suffix, which do not overlap and do not divide a number."""
    start = _common_beginning(names).rstrip("0123456789")
    end = _common_beginning([name[len(start) :][::-1] for name in names])[::-1].lstrip("0123456789")
    return start, end


def _common_beginning(names: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


@lru_cache(maxsize=10_000)
def _split_in(name: str) -> str | None:
    """Return the split that a name contains. A name with two splits, such as train_val, is a split of its own."""
    found = dict.fromkeys(split for word in _words(name) if (split := _keyword(word)))
    return "+".join(found) or None


def _rest(name: str) -> tuple[str, ...]:
    """Return the words of a name that do not mark a split."""
    return tuple(word for word in _words(name) if not _keyword(word) and word not in ENDINGS)


def _keyword(word: str) -> str | None:
    for ending in ENDINGS:
        word = word.removesuffix(ending)
    return KEYWORDS.get(word)


def _words(name: str) -> Iterator[str]:
    """Yield the words of a file's or folder's name in lower case, without a suffix such as `.csv`."""
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix.isalnum() and not _keyword(suffix.lower()):
        name = stem
    for letters in WORD.findall(TWO_WORDS.sub(r"\1out", name)):
        yield from (word.lower() for word in CAMEL_CASE.split(letters))
