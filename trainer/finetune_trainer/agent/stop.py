"""Handles SIGTERM and SIGINT to the agent: it asks the ranks to stop, and ends them after a deadline.

SIGTERM ends a rank at once, so a rank does not get it before the deadline: the ranks see the stop file, agree on a
step, and end by themselves. Ranks that have not met do not check for the file and have nothing to save, so they are
ended at once. The deadline is an interval timer, whose signal interrupts the main thread's wait for the ranks. The
signal handlers use no thread and no lock.
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
"""The delay of an immediate deadline: an interval timer of 0 would never fire."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds before the end of the grace period at which the ranks get SIGTERM and all processes get SIGKILL."""

    terminate: float = 5.0
    kill: float = 2.0


class StopRequest:
    """Records whether the pod was asked to stop, and enforces the stop with a timer."""

    def __init__(self, stop_file: Path, grace: float, deadlines: Deadlines) -> None:
        self.requested = False
        self.enforced_after: float | None = None
        """Seconds from the request until the agent began to end the ranks; None before that."""
        self._ranks: RankProcesses | None = None
        self._met: Callable[[], bool] = lambda: False
        self._stop_file = stop_file
        self._terminate_after = max(grace - deadlines.terminate, 0.01)
        self._kill_after = max(min(deadlines.terminate, grace) - deadlines.kill, 0.01)
        self._time = 0.0

    def install(self) -> None:
        """Install the signal handlers. Only the main thread may call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGALRM, self._on_deadline)

    def watch(self, ranks: RankProcesses, met: Callable[[], bool]) -> None:
        """Enforce the deadline on these ranks and on all other processes below the agent from now on.

        `met` returns whether the ranks have met, after which they check for the stop file.
        """
        self._met = met
        self._ranks = ranks
        if self.requested:
            self._set_deadline()

    def end_watch(self) -> None:
        """Stop enforcing the deadline, because the ranks have ended."""
        self._ranks = None
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    @staticmethod
    def ignore() -> None:
        """Ignore further requests: a signal that arrives while Python exits must not become the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.requested = True
        self._time = time.monotonic()
        # Logging is not used: its buffers may be in use by the code that the signal interrupted.
        os.write(2, b"agent: asked to stop\n")
        with contextlib.suppress(OSError):
            self._stop_file.touch()
        if self._ranks is not None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._terminate_after if self._met() else AT_ONCE_SECONDS)

    def _on_deadline(self, number: int, frame: FrameType | None) -> None:
        if self._ranks is None:  # the ranks have just ended
            return
        if self.enforced_after is None:
            self.enforced_after = time.monotonic() - self._time
            os.write(2, b"agent: ending the ranks\n")
            self._ranks.signal(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, self._kill_after)
        else:
            self._ranks.signal(signal.SIGKILL)
            process_tree.kill_descendants()
