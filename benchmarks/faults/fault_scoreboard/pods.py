"""Pods as processes of this machine, with what a node can do to them."""

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
    """A first process and all below it."""

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
        """None while the first process lives. Nothing of a pod outlives it."""
        code = self._process.poll()
        if code is None and self._kill_at is not None and time.monotonic() > self._kill_at:
            self.kill()
            code = self._process.wait()
        return code

    def terminate(self) -> None:
        """SIGTERM to the first process, and SIGKILL to all after the grace period. Only the first call counts."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, as soon as there is one."""
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL to all processes."""
        if self._process.poll() is not None:  # its id may be another's by now
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def gang_end(pods: Sequence[Pod]) -> list[int] | None:
    """Exit codes when all pods have ended; until then None. As a Job does, one that failed takes the others with it."""
    codes = [pod.exit_code for pod in pods]
    if any(codes):
        for pod, code in zip(pods, codes, strict=True):
            if code is None:
                pod.terminate()
    ended = [code for code in codes if code is not None]
    return ended if len(ended) == len(pods) else None
