"""Lists the files of a folder that may be data, without hidden files and files that a tool wrote for its own use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

from finetune_trainer.data.text_files import unreadable
from finetune_trainer.errors import InvalidError

BOOKKEEPING = (
    # clones of hub repositories, and files that `datasets` writes beside its Arrow files
    "*.md",
    "cache-*.arrow",
    "config.json",
    "croissant.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "id2label.json",
    "label2id.json",
    "license",
    "license.*",
    "readme",
    "readme.*",
    "state.json",
    # Kaggle
    "dataset-metadata.json",
    "gender_submission.csv",
    "kernel-metadata.json",
    "sample_submission.csv",
    "samplesubmission.csv",
    # Label Studio
    "classes.txt",
    # the file managers of Windows
    "desktop.ini",
    "thumbs.db",
)
"""The names, in lower case, of files that describe the data or belong to a tool."""
IS_BOOKKEEPING = re.compile("|".join(map(translate, BOOKKEEPING))).match
LABEL_STUDIO = ("notes.json", "classes.txt")
"""Label Studio writes notes.json beside classes.txt. Without classes.txt, notes.json may be user data."""
HIDDEN = (".", "__")
"""The prefixes that mark files and folders as hidden or internal, as in .git and __MACOSX."""


def files_below(folder: Path, field: str, uri: str) -> list[str]:
    """Return the sorted paths of all files in a folder and its subfolders, relative to the folder. Links are followed.

    Raises InvalidError if a folder cannot be listed or the target of a link does not exist.
    """
    try:
        names = _listed(folder, "", frozenset({os.path.realpath(folder)}))
        return sorted(names, key=lambda name: name.split("/"))
    except BrokenLinkError as error:
        raise InvalidError(
            f"{field}: {uri}/{error} is a link to a file that is not there; put the file there or remove the link"
        ) from None
    except OSError as error:
        raise unreadable(field, uri, error) from None


def may_be_data(name: str) -> bool:
    """Return whether a file with this name is neither hidden nor a bookkeeping file."""
    return not name.startswith(HIDDEN) and not IS_BOOKKEEPING(name.lower())


class BrokenLinkError(Exception):
    """The target of a link does not exist. The message is the relative path of the link."""


def _listed(folder: Path, below: str, parents: frozenset[str]) -> Iterator[str]:
    """Yield the paths of the data files in a folder and its subfolders.

    `parents` are the real paths of the folders above. A link back to one of them is skipped, because following it would
    never end.
    """
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    about, mark = LABEL_STUDIO
    by_label_studio = any(entry.name == mark for entry in entries)
    for entry in entries:
        name = f"{below}{entry.name}"
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in parents and not entry.name.startswith(HIDDEN):
                yield from _listed(Path(entry.path), f"{name}/", parents | {real})
        elif not may_be_data(entry.name) or (by_label_studio and entry.name == about):
            continue
        elif entry.is_file():
            yield name
        elif entry.is_symlink():
            raise BrokenLinkError(name)
