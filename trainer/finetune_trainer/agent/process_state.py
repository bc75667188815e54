"""Describes what a process does as the kernel sees it, for a process that reports nothing itself."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import psutil

MAX_COMMAND_CHARACTERS = 200
MAX_PROCESSES = 8
"""The number of a rank's processes that are described. The last lines of a pod's log have room for only a few."""
_STATES = {
    psutil.STATUS_DISK_SLEEP: "waiting for a disk or for network storage",
    psutil.STATUS_STOPPED: "stopped by a signal",
    psutil.STATUS_TRACING_STOP: "stopped by a debugger",
}
"""Descriptions of the states whose psutil names are not self-explanatory."""
_STACK = re.compile(r"(?:Current thread|Thread|Stack)\b.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(?: in (?P<function>.+))?')
_INSIDE_PYTHON = "<frozen "
"""The prefix of file names in Python's own import system. A user learns more from the line that imports."""


def activity(pid: int) -> tuple[float, int, int]:
    """Return the CPU seconds and bytes read from storage of a process and its descendants, and how many processes live.

    Equal values in two calls mean that nothing happened in between. Only Linux counts the bytes; elsewhere they are 0.
    """
    seconds, read, living = 0.0, 0, 0
    for process in _with_descendants(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
            living += 1
            if hasattr(process, "io_counters"):
                read += process.io_counters().read_bytes
    return seconds, read, living


def describe(pid: int) -> str:
    """Return the state of a process and, if the kernel reports it, the kernel function in which it waits."""
    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return f"process {pid} is gone"
    channel = _wait_channel(pid)
    place = f" in the kernel function {channel}" if channel else ""
    return f"process {pid} is {_STATES.get(status, status)}{place}"


def describe_all(pid: int) -> list[str]:
    """Return one line with state and command for the process and each descendant, at most `MAX_PROCESSES` lines."""
    lines = []
    for process in _with_descendants(pid)[:MAX_PROCESSES]:
        with contextlib.suppress(psutil.Error):
            command = shlex.join(process.cmdline())[:MAX_COMMAND_CHARACTERS]
            lines.append(f"{describe(process.pid)}; its command: {command}")
    return lines


def innermost_line(stack: Iterable[str]) -> str | None:
    """Return the file, line and function where a thread was, from faulthandler's output; None if it has no frame.

    The main thread counts: it handled the signal, and faulthandler prints it last.
    """
    frames: list[re.Match[str]] = []
    for line in stack:
        if _STACK.match(line):
            frames = []
        elif frame := _FRAME.fullmatch(line):
            frames.append(frame)
    if not frames:
        return None
    found = next((frame for frame in frames if not frame["file"].startswith(_INSIDE_PYTHON)), frames[0])
    function = f" in {found['function']}" if found["function"] else ""
    return f"{found['file']}, line {found['line']}{function}"


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _wait_channel(pid: int) -> str | None:
    """Return the kernel function in which a process sleeps, or None if the kernel does not report it."""
    try:
        name = Path(f"/proc/{pid}/wchan").read_text(encoding="ascii")
    except OSError:
        return None
    return name if name not in ("", "0") else None
