"""The parent of a pod's first process, which ensures that no process of the pod outlives it.

    python -I supervise.py COMMAND [ARGUMENTS]      (only the standard library; standard input is the driver's pipe)

When the first process of a container ends, all its other processes are killed. A process group cannot provide that,
because the agent gives each rank its own group. So this process becomes the parent of every orphan below it (a "child
subreaper", Linux only) and at the end kills all its descendants. The end is reached when the command ends or the pipe
closes: the driver closes the pipe to kill the pod, and the kernel does so if the driver dies. SIGTERM is passed only to
the command. The exit code is that of the command, or 128 + n if signal n ended it. Without a subreaper (macOS), an
orphan with its own process group is missed if the command dies before it.
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
"""The maximum number of seconds for killing the descendants; one in uninterruptible sleep may never end."""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processes() -> Iterator[tuple[int, int]]:
    """Yield the process ID and the parent's ID of each process on this machine that has not ended."""
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
    """Return the IDs of all descendants of a process."""
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
    """Collect the children that have ended, and return their exit codes by process ID (128 + n for signal n)."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (result := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(result[1])
            ended[result[0]] = code if code >= 0 else 128 - code
    return ended


def kill_descendants() -> None:
    """Kill descendants until none is left, because a dying process may have forked a moment before."""
    deadline = time.monotonic() + LONGEST_KILL
    while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        reap()


def supervise(command: list[str]) -> int:
    """Run the command until it or standard input ends, and return the exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the wakeup pipe reports the signal
    adopt_orphans()
    try:
        # The variable keeps the object alive: on deletion it would reap the ended child, whose exit code would be lost.
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
