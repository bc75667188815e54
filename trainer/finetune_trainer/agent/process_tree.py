"""All processes below the agent: none is left as a zombie, none outlives it.

What a rank starts may leave its process group, so no group holds them all. As PID 1, or as a subreaper on
Linux, the agent becomes the parent of every orphan: it reaps them, and finds whatever is left in /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""
POLL_SECONDS = 0.02


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, as they are of PID 1. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int, proc: Path = Path("/proc")) -> list[int]:
    """Living processes below `root`, parents first; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain anything; state and parent follow the last one.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = list(children.get(root, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def kill_descendants() -> None:
    """SIGKILL to everything below this process, once."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


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
