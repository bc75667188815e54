"""Ends a rank whose process is frozen, when no other rank notices: one that trains alone has no sibling.

Each rank's watch touches a file in the scratch folder at every beat. The agent looks at these files and counts the
looks at which a file had not changed. It counts looks and not seconds, because an agent that was frozen itself, as by a
laptop's sleep, must not blame its ranks for that time. A rank without a file is not watched: it has not met the others
yet, or its training is over.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from finetune_trainer.contract import ExitCode, RankExit, rank_exit_file
from finetune_trainer.pod.scratch import Scratch, write_atomically

logger = logging.getLogger("agent")

LONGER_THAN_SIBLINGS = 1.5
"""How many times as long as other ranks the agent waits: they know better for whom all wait."""
LOOKS = 15
"""How often the agent looks in that time."""


class Silence:
    """The agent's look at the ranks of its pod; a context manager. `kill` ends a rank's process at once."""

    def __init__(self, scratch: Scratch, ranks: Iterable[int], patience: float, kill: Callable[[int], None]) -> None:
        self._scratch = scratch
        self._kill = kill
        self._seconds = LONGER_THAN_SIBLINGS * patience
        self._unchanged = dict.fromkeys(ranks, 0)
        self._beats: dict[int, int | None] = dict.fromkeys(self._unchanged)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="silence", daemon=True)

    def __enter__(self) -> Silence:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._seconds / LOOKS):
            for rank in self.look():
                self._end(rank)

    def look(self) -> list[int]:
        """The ranks that have been silent for too long, each of them once."""
        for rank, before in self._beats.items():
            beat = self._scratch.last_beat(rank)
            self._unchanged[rank] = self._unchanged[rank] + 1 if beat is not None and beat == before else 0
            self._beats[rank] = beat
        return [rank for rank, looks in self._unchanged.items() if looks == LOOKS]

    def _end(self, rank: int) -> None:
        sentence = f"Rank {rank} has shown no sign of life for {self._seconds:.0f} s: its process is frozen."
        logger.error("%s", sentence)
        if rank not in self._scratch.exits([rank]):
            left = RankExit(
                rank=rank, exit_code=ExitCode.HUNG, error=sentence, error_time=time.time(), slowest_rank=rank
            )
            with contextlib.suppress(OSError):  # then its signal is the cause
                write_atomically(self._scratch.folder / rank_exit_file(rank), left.to_json())
        self._kill(rank)
