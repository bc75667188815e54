"""The pod's scratch folder, in which the agent and its ranks exchange files.

Ranks replace their files atomically. A file that does not parse was therefore written by another program or cut by a
full disk, and counts as absent. The folder outlives a container of the pod, and caches may lie beside the files:
`prepare` only removes what the ranks of a former container left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from finetune_trainer import contract
from finetune_trainer.contract import CheckpointReport, Facts, Message, Progress, RankExit, RankStatus

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Scratch:
    """Reads and writes the scratch files of one pod."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop_file = folder / contract.STOP_FILE
        self.modules = folder / "modules"
        """The folder in which each rank has a folder for its copy of the code that comes with a model."""
        self.callback_token = folder / "callback-token"

    def prepare(self, environment: Mapping[str, str] = os.environ) -> None:
        """Create the folder and remove the files of a former container. Raises OSError.

        Folders below it that environment variables name (HOME, TMPDIR, caches) are created too: with a read-only root,
        Python cannot even import without a folder for temporary files.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for value in environment.values():
            if value.startswith(f"{self.folder}/"):
                Path(value).mkdir(parents=True, exist_ok=True)
        stale = [self.stop_file, self.callback_token]
        stale += [
            self.folder / name
            for name in (
                contract.PROGRESS_FILE,
                contract.CHECKPOINT_FILE,
                contract.FACTS_FILE,
                contract.CHECKPOINT_REQUEST_FILE,
            )
        ]
        for file_of in (
            contract.rank_started_file,
            contract.rank_imported_file,
            contract.rank_status_file,
            contract.rank_exit_file,
            contract.rank_beat_file,
        ):
            stale += self.folder.glob(file_of(0).replace("0", "*"))
        for path in stale:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.modules, ignore_errors=True)

    def statuses(self, ranks: Iterable[int]) -> tuple[RankStatus, ...]:
        """Return the statuses of those ranks that have written one, in the given order."""
        found = (_read(self.folder / contract.rank_status_file(rank), RankStatus) for rank in ranks)
        return tuple(status for status in found if status is not None)

    def exits(self, ranks: Iterable[int]) -> dict[int, RankExit]:
        """Return the exit files of those ranks that have written one, by rank."""
        found = ((rank, _read(self.folder / contract.rank_exit_file(rank), RankExit)) for rank in ranks)
        return {rank: ended for rank, ended in found if ended is not None}

    def add_exit(self, left: RankExit) -> None:
        """Write the exit file of a rank that is about to be killed. A file that the rank has written itself stays.

        If no file can be written, the signal is the cause of the rank's end.
        """
        with contextlib.suppress(OSError), (self.folder / contract.rank_exit_file(left.rank)).open("x") as file:
            file.write(left.to_json())

    def last_beat(self, rank: int) -> int | None:
        """Return when the rank last touched its beat file, in nanoseconds, or None if there is no such file."""
        try:
            return (self.folder / contract.rank_beat_file(rank)).stat().st_mtime_ns
        except OSError:
            return None

    def has_started(self, rank: int) -> bool:
        """Return whether the trainer's code has begun to run in the rank's process."""
        return (self.folder / contract.rank_started_file(rank)).exists()

    def has_imported(self, rank: int) -> bool:
        """Return whether the rank has imported its libraries."""
        return (self.folder / contract.rank_imported_file(rank)).exists()

    def progress(self) -> Progress | None:
        """Return the progress that rank 0 has written, or None in other pods."""
        return _read(self.folder / contract.PROGRESS_FILE, Progress)

    def checkpoint(self) -> CheckpointReport | None:
        """Return the newest checkpoint report that rank 0 has written, or None in other pods."""
        return _read(self.folder / contract.CHECKPOINT_FILE, CheckpointReport)

    def facts(self) -> Facts | None:
        """Return the facts about the data that rank 0 has written, or None in other pods."""
        return _read(self.folder / contract.FACTS_FILE, Facts)

    def request_checkpoint(self, request: str) -> None:
        """Pass a request for a checkpoint to rank 0, which runs in this pod. Raises OSError."""
        write_atomically(self.folder / contract.CHECKPOINT_REQUEST_FILE, request)

    def write_progress(self, progress: Progress) -> None:
        """Write the progress in place of a rank 0 that does not report it itself. Raises OSError."""
        write_atomically(self.folder / contract.PROGRESS_FILE, progress.to_json())


def write_atomically(path: Path, text: str) -> None:
    """Write a text so that readers see either the former text or all of the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, kind: type[AnyMessage]) -> AnyMessage | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
