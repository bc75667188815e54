"""The memory that a pod on this machine uses, and its limit.

On a cluster the kernel ends a container that uses more than its limit. Here nothing does, and a job that needs too much
would exhaust the memory of the machine. So the driver measures each pod and ends it with the same reason.
"""

from __future__ import annotations

import contextlib

import psutil

from finetune_operator.api.quantity import is_quantity, parse_quantity
from finetune_operator.protocol import Object

SECONDS_BETWEEN_LOOKS = 1.0


def limit_of(pod: Object) -> int | None:
    """Return the number of bytes that the pod's containers may use together, or None without a limit."""
    limits = [container.get("resources", {}).get("limits", {}).get("memory") for container in pod["spec"]["containers"]]
    if not limits or not all(limit is not None and is_quantity(limit) for limit in limits):
        return None
    return int(sum(parse_quantity(limit) for limit in limits))


def memory_of(pid: int) -> int:
    """Return the number of bytes that a process and its descendants use.

    On Linux, a page that several of them share is counted once; elsewhere it is counted for each.
    """
    total = 0
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += _memory(process)
    return total


def _memory(process: psutil.Process) -> int:
    try:
        return int(getattr(process.memory_full_info(), "pss", 0)) or int(process.memory_info().rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
