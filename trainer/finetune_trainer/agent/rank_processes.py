"""The ranks' processes of a pod and the store at which they meet, which start together and end together.

When one rank fails, the others wait for it in a collective forever. They get a moment to notice and to report why they
end. Then they get SIGTERM, which ends a rank at once, and then SIGKILL, for a rank that is frozen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence

NOTICE_SECONDS = 0.5
"""Seconds between the first failure and SIGTERM to the other ranks."""
SHUTDOWN_SECONDS = 3.0
"""Seconds between SIGTERM and SIGKILL."""
POLL_SECONDS = 0.02
"""Seconds between two polls after the first failure."""
IDLE_SECONDS = 0.1
"""Seconds between two polls before the first failure."""
KILLED_SECONDS = 5.0
"""Seconds to wait for processes after SIGKILL: one that waits in the kernel for a lost volume cannot be killed."""
STORE = -1
"""The number that stands for the store among the ranks."""


class RankProcesses:
    """The processes of one pod. Signal handlers may call `signal` while the main thread is in `wait`."""

    def __init__(self) -> None:
        self._living: dict[int, int] = {}
        """The rank of each process id."""
        self._ends_them = False
        self._killed_at: float | None = None

    def start(self, rank: int, command: Sequence[str], environment: Mapping[str, str], output: tuple[int, int]) -> None:
        """Start a rank or the store, with stdout and stderr connected to the file descriptors `output`."""
        # Not subprocess.Popen: its own wait would compete with the reaping of orphans.
        stdout, stderr = output
        pid = os.posix_spawn(
            command[0],
            list(command),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)],
            setpgroup=0,
        )
        self._living[pid] = rank

    def wait(self) -> dict[int, int]:
        """Reap children until all ranks have ended, and return the exit codes of those that ended by themselves.

        The codes are in the order in which they were noticed, and negative for a signal. The store keeps running; if it
        ended, its code is included. Ranks that have not ended `KILLED_SECONDS` after SIGKILL are left out.
        """
        codes: dict[int, int] = {}
        orders = [(NOTICE_SECONDS, signal.SIGTERM), (NOTICE_SECONDS + SHUTDOWN_SECONDS, signal.SIGKILL)]
        failed: float | None = None
        while set(self._living.values()) - {STORE}:
            # A blocking wait could miss a signal: one that arrives between Python's last check for signals and the
            # system call does not interrupt the call, and its handler would not run before a child ends.
            child, status = os.waitpid(-1, os.WNOHANG)
            if child in self._living:
                code = os.waitstatus_to_exitcode(status)
                rank = self._living.pop(child)
                if not self._ends_them or code >= 0:
                    codes[rank] = code
                if failed is None and (code or rank == STORE):
                    failed = time.monotonic()
            elif child == 0:
                if failed is not None and orders and time.monotonic() - failed >= orders[0][0]:
                    self.signal(orders.pop(0)[1])
                if self._killed_at is not None and time.monotonic() - self._killed_at >= KILLED_SECONDS:
                    break
                time.sleep(IDLE_SECONDS if failed is None else POLL_SECONDS)
        return codes

    def living(self) -> dict[int, int]:
        """Return the process ids of the living ranks, by rank. Any thread may call this."""
        return {rank: pid for pid, rank in tuple(self._living.items()) if rank != STORE}

    def signal(self, number: int) -> None:
        """Send a signal to all living ranks, but not to the store."""
        self._ends_them = True
        if number == signal.SIGKILL:
            self._killed_at = time.monotonic()
        for pid, rank in tuple(self._living.items()):
            if rank != STORE:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill(self) -> None:
        """Send SIGKILL to all living ranks and to the store. Any thread may call this."""
        self._killed_at = time.monotonic()
        for pid in tuple(self._living):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
