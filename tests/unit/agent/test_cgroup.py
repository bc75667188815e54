"""CPU and memory limits as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.agent.cgroup import Cgroup

USABLE = float(len(os.sched_getaffinity(0)))


def cgroup(tmp_path: Path, membership: str, **files: str) -> Cgroup:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    return Cgroup(root=tmp_path, membership=tmp_path / "membership")


def test_v2_in_a_container(tmp_path: Path) -> None:
    files = {"memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\n", "cpu.max": "50000 100000\n"}
    found = cgroup(tmp_path, "0::/\n", **files)
    assert (found.oom_kills(), found.cpus()) == (3, 0.5)


def test_v2_on_a_host_is_read_at_the_processs_own_path(tmp_path: Path) -> None:
    files = {"a/b/memory.events": "oom_kill 1\n", "a/b/cpu.max": "max 100000\n", "memory.events": "oom_kill 9\n"}
    found = cgroup(tmp_path, "0::/a/b\n", **files)
    assert (found.oom_kills(), found.cpus()) == (1, USABLE)


def test_v1_with_a_path_of_the_host(tmp_path: Path) -> None:
    files = {
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "cpu/cpu.cfs_quota_us": "25000\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    found = cgroup(tmp_path, "4:memory:/kubepods/pod1\n1:cpu,cpuacct:/kubepods/pod1\n0::/\n", **files)
    assert (found.oom_kills(), found.cpus()) == (2, 0.25)


@pytest.mark.parametrize("files", [{}, {"cpu/cpu.cfs_quota_us": "-1\n"}, {"cpu.max": "99900000 100000\n"}])
def test_without_a_limit_all_usable_cpus_count(tmp_path: Path, files: dict[str, str]) -> None:
    assert cgroup(tmp_path, "", **files).cpus() == USABLE


def test_a_kernel_that_does_not_say_counts_no_kills(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "").oom_kills() == 0
    assert Cgroup(root=tmp_path, membership=tmp_path / "none").oom_kills() == 0
