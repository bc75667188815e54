"""Lists the files of a folder that may be data: neither hidden nor written by a tool for its own bookkeeping."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

from finetune_trainer.data.text_files import unreadable
from finetune_trainer.errors import InvalidError

BOOKKEEPING = (
    # clones from the hub, and what `datasets` writes beside its arrow files
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
"""Names, in lower case, of files that are about the data or about the tool."""
IS_BOOKKEEPING = re.compile("|".join(map(translate, BOOKKEEPING))).match
LABEL_STUDIO = ("notes.json", "classes.txt")
"""Label Studio writes the first beside the second. Alone, notes.json may well be somebody's data."""
HIDDEN = (".", "__")
"""How the names of files and folders begin that their owners hide, as .git and __MACOSX."""


def files_below(folder: Path, field: str, uri: str) -> list[str]:
    """The sorted paths of the files in a folder and in those below it, relative to it. Links are followed.

    Raises InvalidError when a folder cannot be listed or a link leads nowhere.
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
    """Whether the file of that name is neither hidden nor a bookkeeping file."""
    return not name.startswith(HIDDEN) and not IS_BOOKKEEPING(name.lower())


class BrokenLinkError(Exception):
    """The relative path of a link that leads nowhere."""


def _listed(folder: Path, below: str, parents: frozenset[str]) -> Iterator[str]:
    """`parents` are the real paths of the folders on the way here: a link back to one of them would never end."""
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
