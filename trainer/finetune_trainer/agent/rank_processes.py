"""The ranks' processes of a pod, and the store at which they meet: started together, ended together.

When one fails, the others wait for it in a collective for ever. They are given a moment to notice and to say why they
end, then SIGTERM, at which a rank ends at once, then SIGKILL, for one that is frozen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence

NOTICE_SECONDS = 0.5
"""Between the first failure and SIGTERM to the others."""
SHUTDOWN_SECONDS = 3.0
"""Between SIGTERM and SIGKILL."""
POLL_SECONDS = 0.02
"""Between two looks after the first failure."""
IDLE_SECONDS = 0.1
"""Between two looks before it."""
KILLED_SECONDS = 5.0
"""How long processes are waited for after SIGKILL: one that waits in the kernel for a lost volume cannot be killed."""
STORE = -1
"""Stands for the store among the ranks."""


class RankProcesses:
    """Of one pod. Signal handlers may call `signal` while the main thread is in `wait`."""

    def __init__(self) -> None:
        self._living: dict[int, int] = {}
        """Rank of each process id."""
        self._ends_them = False
        self._killed_at: float | None = None

    def start(self, rank: int, command: Sequence[str], environment: Mapping[str, str], output: tuple[int, int]) -> None:
        """With stdout and stderr to these file descriptors."""
        # Not subprocess.Popen: its own wait would race with the reaping of orphans.
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
        """Reap every child that ends, until all ranks have; the store lives on. Returns the exit codes, in the order in
        which they were seen, negative for a signal, of those that ended by themselves. Ranks that do not end though
        they were killed are left out after `KILLED_SECONDS`."""
        codes: dict[int, int] = {}
        orders = [(NOTICE_SECONDS, signal.SIGTERM), (NOTICE_SECONDS + SHUTDOWN_SECONDS, signal.SIGKILL)]
        failed: float | None = None
        while set(self._living.values()) - {STORE}:
            # A wait that blocks could miss a signal: one that comes between Python's last look for signals and the
            # system call does not interrupt it, and its handler would not run before a child ends.
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
        """The process ids of the ranks that live, by rank. Any thread may call this."""
        return {rank: pid for pid, rank in tuple(self._living.items()) if rank != STORE}

    def signal(self, number: int) -> None:
        """To all that live, the store excepted."""
        self._ends_them = True
        if number == signal.SIGKILL:
            self._killed_at = time.monotonic()
        for pid, rank in tuple(self._living.items()):
            if rank != STORE:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to all that live, the store included. Any thread may call this."""
        self._killed_at = time.monotonic()
        for pid in tuple(self._living):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
