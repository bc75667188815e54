"""Reads this container's CPU limit and OOM kills from its cgroup: v2, or v1 on a node that still uses it.

The files are below the path in /proc/self/cgroup. In a container without a cgroup namespace, that path is the host's
and does not exist; the container's own files are then at the mount's root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of this process. Only tests pass other paths."""

    root: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def oom_kills(self) -> int:
        """Return how many processes of this cgroup the OOM killer has killed; 0 if the kernel does not report it.

        The number is in the line `oom_kill N` of memory.events (v2) or memory.oom_control (v1, since Linux 4.13). v1's
        failcnt is no substitute: it counts every time that the limit was reached, and mostly the kernel then only drops
        page cache.
        """
        text = self._read("", "memory.events") or self._read("memory", "memory.oom_control") or ""
        fields = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
        return int(fields.get("oom_kill", 0))

    def cpus(self) -> float:
        """Return the CPU limit of the cgroup, which is at most the number of CPUs on which this process may run."""
        usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        if text := self._read("", "cpu.max"):
            quota, period = text.split()
        else:
            quota = (self._read("cpu", "cpu.cfs_quota_us") or "max").strip()
            period = (self._read("cpu", "cpu.cfs_period_us") or "100000").strip()
        if quota in ("max", "-1"):
            return usable
        return min(usable, int(quota) / int(period))

    def _read(self, controller: str, name: str) -> str | None:
        """Return the content of a cgroup file, or None if it cannot be read.

        `controller` is a v1 hierarchy, or "" for v2.
        """
        for folder in (self.root / controller / self._path(controller), self.root / controller):
            try:
                return (folder / name).read_text(encoding="ascii")
            except OSError:
                continue
        return None

    def _path(self, controller: str) -> str:
        """Return this process's cgroup in a hierarchy, relative to the hierarchy's root, or "" if it has none."""
        try:
            lines = self.membership.read_text(encoding="utf-8").splitlines()
        except OSError:
            return ""
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path.lstrip("/")
        return ""
