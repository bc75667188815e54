"""All processes below the agent: none is left as a zombie, none outlives it.

What a rank starts may leave its process group, so no group holds them all. As PID 1, or as a subreaper on
Linux, the agent becomes the parent of every orphan: it reaps them, and finds whatever is left among its descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""
POLL_SECONDS = 0.02


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, as they are of PID 1. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """SIGKILL to everything below this process, once."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def end_descendants(seconds: float) -> None:
    """Kill and reap until nothing is left, at most so long: a process that waits in the kernel for a lost volume cannot
    be killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        kill_descendants()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(POLL_SECONDS)
