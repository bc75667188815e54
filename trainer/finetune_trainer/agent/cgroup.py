"""What the kernel says about this container's CPUs and memory: cgroup v2, and v1 where a node still has it.

The files are below the path that /proc/self/cgroup names; in a container without a cgroup namespace that path is the
host's and does not exist, and the container's own files are at the mount's root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cgroup:
    """Where to look; other paths are for tests."""

    root: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def oom_kills(self) -> int:
        """Processes of this cgroup that the OOM killer has ended so far; 0 where the kernel does not say.

        The line `oom_kill N` of v2's memory.events or v1's memory.oom_control (Linux 4.13). v1's failcnt is no
        substitute: it counts every time that the limit was met, most of which end well by dropping page cache.
        """
        text = self._read("", "memory.events") or self._read("memory", "memory.oom_control") or ""
        fields = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
        return int(fields.get("oom_kill", 0))

    def cpus(self) -> float:
        """CPU limit, at most the CPUs that this process may run on."""
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
        """`controller` is a v1 hierarchy, or "" for v2."""
        for folder in (self.root / controller / self._path(controller), self.root / controller):
            try:
                return (folder / name).read_text(encoding="ascii")
            except OSError:
                continue
        return None

    def _path(self, controller: str) -> str:
        """This process's cgroup in a hierarchy, relative to its root; "" when it has none."""
        try:
            lines = self.membership.read_text(encoding="utf-8").splitlines()
        except OSError:
            return ""
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path.lstrip("/")
        return ""
