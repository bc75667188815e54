"""Ends a rank that trains alone and whose process is frozen, because no other rank could notice it.

The rank's watch touches a file in the scratch folder at every beat. The agent polls this file and counts the polls in
which it has not changed. Without the file the rank is not watched: it has not begun yet, or its training is over. Ranks
of a larger world notice each other. Their watch may also wait for the store of a pod that is gone, which would look
like silence here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from finetune_trainer.agent.polling import POLLS, Polling
from finetune_trainer.contract import ExitCode, RankExit
from finetune_trainer.pod.scratch import Scratch

logger = logging.getLogger("agent")

RANK = 0
"""The only rank of its world."""
LONGER_THAN_SIBLINGS = 1.5
"""The factor by which the agent waits longer than another rank would: nobody else waits for this rank, and a library
call that holds Python's lock does not mean that the process is frozen."""


class Silence(Polling):
    """A context manager in which the agent watches its only rank. `kill` ends the rank's process at once."""

    def __init__(self, scratch: Scratch, patience: float, kill: Callable[[], object]) -> None:
        """Prepare the watch.

        `patience` is the number of seconds after which another rank would call the rank silent.
        """
        super().__init__("silence", LONGER_THAN_SIBLINGS * patience)
        self._scratch = scratch
        self._kill = kill
        self._beat: int | None = None
        self._unchanged = 0

    def poll(self) -> bool:
        """Poll once; end the rank if it has been silent for too long. Return whether to go on polling."""
        silent = self.is_silent()
        if silent:
            self._end()
        return not silent

    def is_silent(self) -> bool:
        """Poll once and return whether the rank has been silent for too long."""
        beat = self._scratch.last_beat(RANK)
        self._unchanged = self._unchanged + 1 if beat is not None and beat == self._beat else 0
        self._beat = beat
        return self._unchanged >= POLLS

    def _end(self) -> None:
        sentence = f"Rank {RANK} has shown no sign of life for {self._patience:.0f} s: its process is frozen."
        logger.error("%s", sentence)
        left = RankExit(rank=RANK, exit_code=ExitCode.HUNG, error=sentence, error_time=time.time(), slowest_rank=RANK)
        self._scratch.add_exit(left)
        self._kill()
