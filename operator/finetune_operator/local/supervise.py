"""The parent of a pod's first process, so that nothing of a pod outlives it.

    python -I supervise.py COMMAND ARGUMENT …      (only the standard library; standard input is the driver's pipe)

A container ends when its first process ends, and all others die with it. A process group cannot do that: the agent
gives each rank a group of its own. So this process adopts every orphan below it (a "child subreaper", Linux) and, at
the end, kills all that descends from it. The end is when the command ends, or when the pipe closes: the driver closes
it to kill the pod, and the kernel does if the driver dies. SIGTERM is passed to the command alone. The exit code is
the command's, 128 + n when signal n ended it. Where there is no subreaper (macOS), an orphan in a group of its own is
missed if the command dies before it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
CANNOT_START = 128
KILLED = 128 + signal.SIGKILL
LONGEST_KILL = 10.0
"""Seconds; a process in uninterruptible sleep cannot be waited for."""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processes() -> Iterator[tuple[int, int]]:
    """(process, parent) of all on this machine that have not ended."""
    if sys.platform == "linux":
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # The name in parentheses may contain anything, so the fields are counted from its end.
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    yield int(folder.name), int(parent)
        return
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        pid, parent, state = line.split(maxsplit=2)
        if not state.startswith("Z"):
            yield int(pid), int(parent)


def descendants(of: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for pid, parent in processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    unvisited = [of]
    while unvisited:
        below = children.get(unvisited.pop(), [])
        found += below
        unvisited += below
    return found


def reap() -> dict[int, int]:
    """Wait for the children that have ended: exit code by process, 128 + n for signal n."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (result := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(result[1])
            ended[result[0]] = code if code >= 0 else 128 - code
    return ended


def kill_descendants() -> None:
    """Until there are none: a dying process may have forked a moment ago."""
    deadline = time.monotonic() + LONGEST_KILL
    while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        reap()


def supervise(command: list[str]) -> int:
    """Run the command to its end, or to the end of standard input; returns the exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # only to be told through the pipe
    adopt_orphans()
    try:
        # Kept until the return: an object that is dropped reaps a child that has ended, whose end then is never seen.
        first = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", flush=True)  # noqa: T201  # this is the pod's log
        return CANNOT_START
    while True:
        readable, _, _ = select.select([sys.stdin.fileno(), wake_read], [], [])
        if wake_read in readable and signal.SIGTERM in os.read(wake_read, 512):
            with contextlib.suppress(ProcessLookupError):
                os.kill(first.pid, signal.SIGTERM)
        if (code := reap().get(first.pid)) is not None:
            return code
        if sys.stdin.fileno() in readable and not os.read(sys.stdin.fileno(), 1):
            return KILLED


if __name__ == "__main__":
    exit_code = supervise(sys.argv[1:])
    kill_descendants()
    sys.exit(exit_code)
