"""SIGTERM and SIGINT to the agent: a stop request for the ranks, and a deadline after which they are ended.

SIGTERM ends a rank at once, so it gets none before the deadline: the ranks see the stop file, agree on a step, and end
by themselves. Ranks that have not met look at no file and have nothing to save: for them the deadline is at once. The
deadline is an interval timer, whose signal interrupts the main thread's wait for the ranks; no thread and no lock is
touched by a handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from finetune_trainer.agent import process_tree
from finetune_trainer.agent.rank_processes import RankProcesses

AT_ONCE_SECONDS = 0.01
"""An interval timer of 0 would never ring."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds before the end of the grace period at which the ranks get SIGTERM, and everything SIGKILL."""

    terminate: float = 5.0
    kill: float = 2.0


class StopRequest:
    """Whether the pod was asked to stop; also the timer that enforces it."""

    def __init__(self, stop_file: Path, grace: float, deadlines: Deadlines) -> None:
        self.requested = False
        self.enforced_after: float | None = None
        """Seconds between the request and the end of the agent's patience, once that is over."""
        self._ranks: RankProcesses | None = None
        self._met: Callable[[], bool] = lambda: False
        self._stop_file = stop_file
        self._terminate_after = max(grace - deadlines.terminate, 0.01)
        self._kill_after = max(min(deadlines.terminate, grace) - deadlines.kill, 0.01)
        self._time = 0.0

    def install(self) -> None:
        """Take over the signals. Only the main thread may call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGALRM, self._on_deadline)

    def watch(self, ranks: RankProcesses, met: Callable[[], bool]) -> None:
        """From now on the deadline ends these, and all others below the agent. `met` tells whether they have come so
        far that they see the stop file."""
        self._met = met
        self._ranks = ranks
        if self.requested:
            self._set_deadline()

    def end_watch(self) -> None:
        """The ranks have ended."""
        self._ranks = None
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    @staticmethod
    def ignore() -> None:
        """The last word is written: a signal that comes while Python ends shall not become the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.requested = True
        self._time = time.monotonic()
        # Not logging: its buffers may be in use by the code that the signal interrupted.
        os.write(2, b"agent: asked to stop\n")
        with contextlib.suppress(OSError):
            self._stop_file.touch()
        if self._ranks is not None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._terminate_after if self._met() else AT_ONCE_SECONDS)

    def _on_deadline(self, number: int, frame: FrameType | None) -> None:
        if self._ranks is None:  # they have just ended
            return
        if self.enforced_after is None:
            self.enforced_after = time.monotonic() - self._time
            os.write(2, b"agent: ending the ranks\n")
            self._ranks.signal(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, self._kill_after)
        else:
            self._ranks.signal(signal.SIGKILL)
            process_tree.kill_descendants()
