"""Pods as processes of this machine, and what a node can do to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from fault_scoreboard.side import GRACE_SECONDS, Command


class Pod:
    """A first process and all its descendants."""

    def __init__(self, command: Command, log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command.arguments,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._kill_at: float | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the first process; None while it lives.

        A terminated pod is killed after its grace period.
        """
        code = self._process.poll()
        if code is None and self._kill_at is not None and time.monotonic() > self._kill_at:
            self.kill()
            code = self._process.wait()
        return code

    def terminate(self) -> None:
        """Send SIGTERM to the first process; SIGKILL to all processes follows after the grace period.

        Further calls have no effect.
        """
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the first process to end, and return its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        if self._process.poll() is not None:  # its id may belong to another process by now
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def gang_end(pods: Sequence[Pod]) -> list[int] | None:
    """Return the exit codes when all pods have ended, otherwise None.

    As a Job does, a failed pod terminates the others.
    """
    codes = [pod.exit_code for pod in pods]
    if any(codes):
        for pod, code in zip(pods, codes, strict=True):
            if code is None:
                pod.terminate()
    ended = [code for code in codes if code is not None]
    return ended if len(ended) == len(pods) else None
