"""The images that `make images` has built, in a pod that is as restricted as in a cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from images.conftest import LOCKED_DOWN, docker
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.manifests.children import children
from finetune_trainer.contract import ExitCode

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.images
Run = Callable[..., CompletedProcess[str]]

MAX_OPERATOR_MB = 250
BUILD_TOOLS = "cc gcc g++ c++ clang ld as make nvcc pip pip3 git"
VERSIONS = """
import importlib.metadata
print(*(f"{found.name}=={found.version}" for found in importlib.metadata.distributions()))
"""


def trainer_container() -> dict[str, Any]:
    """Return the container that the operator puts into a Job."""
    settings = Settings(image="trainer")
    job = parse(manifest("clauses", **{"metadata.uid": "0b5e7d2a-1"}))
    made = {r.kind: o for r, o in children(job, next_run(job, 1, settings, "nonce", NOW), settings)}
    (container,) = made["Job"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def as_in_its_pod() -> tuple[str, ...]:
    """Return the options of docker run for the pod's plain variables and its writable mounts."""
    container = trainer_container()
    plain = [f"{v['name']}={v['value']}" for v in container["env"] if "value" in v]
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    return (
        *(word for variable in plain for word in ("--env", variable)),
        *(word for path in writable for word in ("--tmpfs", f"{path}:mode=1777,exec")),
    )


def test_the_operators_image_is_small(operator_image: str, inspect: Callable[[str], dict[str, Any]]) -> None:
    assert inspect(operator_image)["Size"] / 1e6 <= MAX_OPERATOR_MB


def test_an_image_says_what_it_is(image: str, inspect: Callable[[str], dict[str, Any]]) -> None:
    labels = inspect(image)["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] in {"finetune-operator", "finetune-trainer"}
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert labels[f"{prefix}version"] == version[1]
    assert re.fullmatch(r"[0-9a-f]{40}", labels[f"{prefix}revision"])


def test_a_container_is_neither_root_nor_able_to_write(image: str, run: Run) -> None:
    done = run(image, "/bin/sh", "-c", "id -u; id -g; find / -xdev -writable ! -type l 2>/dev/null")
    user, group, *writable = done.stdout.split()
    assert (user, group) == ("65532", "65532"), done.stderr
    ours = [path for path in writable if not path.startswith(("/proc", "/dev", "/sys"))]
    # These folders come from Debian and are read-only in a pod.
    assert set(ours) <= {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}


def test_python3_is_the_virtual_environments(image: str, run: Run) -> None:
    done = run(image, "/bin/sh", "-c", "command -v python3; command -v finetune")
    assert done.stdout.split() == ["/opt/finetune/bin/python3", "/opt/finetune/bin/finetune"], done.stderr


def test_nothing_is_left_that_builds_or_installs(image: str, run: Run) -> None:
    done = run(
        image, "/bin/sh", "-c", f"for name in {BUILD_TOOLS}; do command -v $name; done; ls -A /tmp /mnt /var/cache/apt"
    )
    assert done.stdout.split() == ["/mnt:", "/tmp:", "/var/cache/apt:"], done.stderr
    done = run(
        image, "python3", "-c", "import importlib.util as u; print(u.find_spec('pip'), u.find_spec('ensurepip'))"
    )
    assert done.stdout.split() == ["None", "None"], done.stderr


def test_versions_are_those_that_the_tests_pass_with(image: str, run: Run) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    expected = {normal(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    found = dict(word.split("==") for word in run(image, "python3", "-c", VERSIONS).stdout.split())
    assert {"finetune-operator", "kubernetes"} <= {normal(name) for name in found}
    for name, version in found.items():
        if name != "finetune-operator":
            # torch's builds for other hardware have a local version, for example 2.15.0+cpu.
            assert expected.get(normal(name)) == version.partition("+")[0], name


def test_both_offer_the_command_line(image: str, run: Run) -> None:
    done = run(image, "finetune", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: finetune")


def test_the_operators_image_prints_the_definition(operator_image: str, run: Run) -> None:
    done = run(operator_image, "finetune", "crd")
    assert done.stdout == (ROOT / "crds" / "finetunejobs.yaml").read_text(), done.stderr


def test_the_operator_is_what_its_image_runs_and_it_waits_for_a_cluster_until_it_is_stopped(
    operator_image: str,
) -> None:
    container = docker("run", "--detach", *LOCKED_DOWN, operator_image).stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while not (log := docker("logs", container).stderr):
            assert time.monotonic() < deadline, "it says nothing"
            time.sleep(0.2)
        assert "there is no cluster to talk to" in log
        assert log.count("\n") == 1, log
        docker("stop", "--time", "20", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "0"
    finally:
        docker("rm", "--force", container)


def test_the_operators_image_holds_no_torch(operator_image: str, run: Run) -> None:
    done = run(operator_image, "python3", "-c", "import importlib.util as u; print(u.find_spec('torch'))")
    assert done.stdout.strip() == "None", done.stderr


@pytest.mark.parametrize("command", [(), tuple(trainer_container()["command"])], ids=["by default", "as in a pod"])
def test_the_agent_without_its_environment_says_so(trainer_image: str, run: Run, command: tuple[str, ...]) -> None:
    done = run(trainer_image, *command)
    assert done.returncode == ExitCode.INVALID
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"agent: Environment variable \w+ is missing; the operator sets it\.", line)


@pytest.mark.timeout(300)
def test_the_trainer_loads_in_its_pod(trainer_image: str, run: Run) -> None:
    """A pod with a read-only root and no compiler can import the modules, do a forward pass and draw a figure."""
    code = (
        "import pathlib; from finetune_trainer.pod.scratch import Scratch; Scratch(pathlib.Path('/scratch')).prepare();"
        "import finetune_trainer.rank, deepspeed, torch, matplotlib.pyplot as plot;"
        "print(torch.nn.Linear(2, 1)(torch.ones(1, 2)).shape); plot.figure().savefig('/scratch/figure.png')"
    )
    done = run(trainer_image, "python3", "-c", code, options=as_in_its_pod())
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 1])" in done.stdout


def normal(name: str) -> str:
    """Return a distribution's normalized name.

    https://packaging.python.org/en/latest/specifications/name-normalization/
    """
    return re.sub(r"[-_.]+", "-", name).lower()
