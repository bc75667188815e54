"""What a process is doing, as the kernel sees it from outside: for a process that says nothing itself."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import psutil

MAX_COMMAND_CHARACTERS = 200
MAX_PROCESSES = 8
"""How many of a rank's processes are described: the last lines of a pod's log have room for a few."""
_STATES = {
    psutil.STATUS_DISK_SLEEP: "waiting for a disk or for network storage",
    psutil.STATUS_STOPPED: "stopped by a signal",
    psutil.STATUS_TRACING_STOP: "stopped by a debugger",
}
"""The states whose names in psutil would not explain themselves."""
_STACK = re.compile(r"(?:Current thread|Thread|Stack)\b.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(?: in (?P<function>.+))?')
_INSIDE_PYTHON = "<frozen "
"""The files of Python's own import system are named so; a user learns more from the line that imports."""


def activity(pid: int) -> tuple[float, int, int]:
    """What a process and its descendants have done so far: CPU seconds, bytes read from storage, and their number.

    Equal values at two looks mean that nothing happened between them. Only Linux counts the bytes; elsewhere they
    are 0.
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
    """The state of a process and, where the kernel says it, the kernel's function in which it waits."""
    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return f"process {pid} is gone"
    channel = _wait_channel(pid)
    place = f" in the kernel function {channel}" if channel else ""
    return f"process {pid} is {_STATES.get(status, status)}{place}"


def describe_all(pid: int) -> list[str]:
    """One line with state and command for the process and each of its descendants, for at most `MAX_PROCESSES`."""
    lines = []
    for process in _with_descendants(pid)[:MAX_PROCESSES]:
        with contextlib.suppress(psutil.Error):
            command = shlex.join(process.cmdline())[:MAX_COMMAND_CHARACTERS]
            lines.append(f"{describe(process.pid)}; its command: {command}")
    return lines


def innermost_line(stack: Iterable[str]) -> str | None:
    """File, line and function where a thread was, from what faulthandler wrote of it; None if there is no frame.

    The thread that handled the signal counts, which is the main thread, and faulthandler writes it last.
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
    """The kernel's function in which a process sleeps; None where the kernel does not say."""
    try:
        name = Path(f"/proc/{pid}/wchan").read_text(encoding="ascii")
    except OSError:
        return None
    return name if name not in ("", "0") else None
