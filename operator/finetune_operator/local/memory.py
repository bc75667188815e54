"""How much memory a pod of this machine takes, and how much it may.

On a cluster the kernel ends a container that takes more than its limit. Here nothing would: a job that was planned too
large would starve the machine. So the driver measures each pod and ends it with the same reason.
"""

from __future__ import annotations

import contextlib

import psutil

from finetune_operator.api.quantity import is_quantity, parse_quantity
from finetune_operator.protocol import Object

SECONDS_BETWEEN_LOOKS = 1.0


def limit_of(pod: Object) -> int | None:
    """Bytes that the pod's containers may take together; None without a limit."""
    limits = [container.get("resources", {}).get("limits", {}).get("memory") for container in pod["spec"]["containers"]]
    if not limits or not all(limit is not None and is_quantity(limit) for limit in limits):
        return None
    return int(sum(parse_quantity(limit) for limit in limits))


def memory_of(pid: int) -> int:
    """Bytes of a process and all below it. A page that several of them share is counted once, where the machine says
    so (Linux); elsewhere it counts for each."""
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
