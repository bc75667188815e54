"""Ends a rank that trains alone and whose process is frozen, because no other rank could notice it.

The rank's watch touches a file in the scratch folder at every beat. The agent polls this file and counts the polls in
which it has not changed. It counts polls and not seconds, because an agent that was itself frozen, for example while a
laptop slept, must not blame its rank for that time. Without the file the rank is not watched: it has not begun yet, or
its training is over. Ranks of a larger world notice each other. Their watch may also wait for the store of a pod that
is gone, which would look like silence here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from finetune_trainer.contract import ExitCode, RankExit, rank_exit_file
from finetune_trainer.pod.scratch import Scratch

logger = logging.getLogger("agent")

RANK = 0
"""The only rank of its world."""
LONGER_THAN_SIBLINGS = 1.5
"""The factor by which the agent waits longer than another rank would: nobody else waits for this rank, and a library
call that holds Python's lock does not mean that the process is frozen."""
LOOKS = 15
"""The number of polls before the agent's patience ends."""


class Silence:
    """A context manager in which the agent watches its only rank. `kill` ends the rank's process at once."""

    def __init__(self, scratch: Scratch, patience: float, kill: Callable[[], object]) -> None:
        """Prepare the watch.

        `patience` is the number of seconds after which another rank would call the rank silent.
        """
        self._scratch = scratch
        self._kill = kill
        self._patience = LONGER_THAN_SIBLINGS * patience
        self._beat: int | None = None
        self._unchanged = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="silence", daemon=True)

    def __enter__(self) -> Silence:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the watch and wait for its thread: the file that it may write is read after the rank's end."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._patience / LOOKS):
            if self.is_silent():
                self._end()
                return

    def is_silent(self) -> bool:
        """Poll once and return whether the rank has been silent for too long."""
        beat = self._scratch.last_beat(RANK)
        self._unchanged = self._unchanged + 1 if beat is not None and beat == self._beat else 0
        self._beat = beat
        return self._unchanged >= LOOKS

    def _end(self) -> None:
        sentence = f"Rank {RANK} has shown no sign of life for {self._patience:.0f} s: its process is frozen."
        logger.error("%s", sentence)
        left = RankExit(rank=RANK, exit_code=ExitCode.HUNG, error=sentence, error_time=time.time(), slowest_rank=RANK)
        # An exit file that the rank has written itself stays. If no file can be written, the signal is the cause.
        with contextlib.suppress(OSError), (self._scratch.folder / rank_exit_file(RANK)).open("x") as file:
            file.write(left.to_json())
        self._kill()
