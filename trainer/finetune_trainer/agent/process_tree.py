"""Ends all processes below the agent: none stays as a zombie, and none outlives the agent.

A process that a rank starts may leave the rank's process group, so no group contains all of them. As PID 1, or as a
subreaper on Linux, the agent becomes the parent of every orphan. It reaps the orphans, and finds all remaining
processes among its descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36
"""The constant in linux/prctl.h."""
POLL_SECONDS = 0.02


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants, as PID 1 is. Only Linux supports this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Send SIGKILL once to every process below this one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def end_descendants(seconds: float) -> None:
    """Kill and reap all descendants, for at most `seconds`.

    A process that waits in the kernel for a lost volume cannot be killed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        kill_descendants()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(POLL_SECONDS)
