"""The pod's scratch folder: the files in which the agent and its ranks speak to each other.

Ranks replace their files atomically, so a file that does not parse was written by somebody else or cut by a full disk;
it counts as absent. The folder outlives a container of the pod, and caches may lie beside the files: `prepare` removes
what a former container's ranks left and nothing else.
"""

from __future__ import annotations

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
    """Reads and writes the files of one pod."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop_file = folder / contract.STOP_FILE
        self.modules = folder / "modules"
        """A folder for each rank's copy of the code that a model brings."""
        self.callback_token = folder / "callback-token"

    def prepare(self, environment: Mapping[str, str] = os.environ) -> None:
        """Create the folder and remove the files of a former container. Raises OSError.

        The folders below it that variables of the environment name (HOME, TMPDIR, caches) are made too: where the root
        is read-only, Python does not even import without a folder for temporary files."""
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
        """Of those ranks that have written one, in the order given."""
        found = (_read(self.folder / contract.rank_status_file(rank), RankStatus) for rank in ranks)
        return tuple(status for status in found if status is not None)

    def exits(self, ranks: Iterable[int]) -> dict[int, RankExit]:
        """By rank, of those ranks that have written one."""
        found = ((rank, _read(self.folder / contract.rank_exit_file(rank), RankExit)) for rank in ranks)
        return {rank: ended for rank, ended in found if ended is not None}

    def last_beat(self, rank: int) -> int | None:
        """When the rank touched its file last, in nanoseconds; None if there is no such file."""
        try:
            return (self.folder / contract.rank_beat_file(rank)).stat().st_mtime_ns
        except OSError:
            return None

    def has_started(self, rank: int) -> bool:
        """Whether the trainer's code runs in the rank's process."""
        return (self.folder / contract.rank_started_file(rank)).exists()

    def has_imported(self, rank: int) -> bool:
        """Whether the rank has imported its libraries."""
        return (self.folder / contract.rank_imported_file(rank)).exists()

    def progress(self) -> Progress | None:
        """Rank 0's, on the pod where it runs."""
        return _read(self.folder / contract.PROGRESS_FILE, Progress)

    def checkpoint(self) -> CheckpointReport | None:
        """Rank 0's, on the pod where it runs."""
        return _read(self.folder / contract.CHECKPOINT_FILE, CheckpointReport)

    def facts(self) -> Facts | None:
        """Rank 0's, on the pod where it runs."""
        return _read(self.folder / contract.FACTS_FILE, Facts)

    def request_checkpoint(self, request: str) -> None:
        """For rank 0, on the pod where it runs. Raises OSError."""
        write_atomically(self.folder / contract.CHECKPOINT_REQUEST_FILE, request)

    def write_progress(self, progress: Progress) -> None:
        """In place of a rank 0 that does not write it itself. Raises OSError."""
        write_atomically(self.folder / contract.PROGRESS_FILE, progress.to_json())


def write_atomically(path: Path, text: str) -> None:
    """Readers see the former text or all of the new one. Raises OSError."""
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
