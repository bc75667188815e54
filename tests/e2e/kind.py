"""A kind cluster for one test: its folder, the commands that run on it, and the diagnostics of a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.kubectl import Kubectl

ROOT = Path(__file__).parents[2]
NAMESPACE = "default"
SYSTEM = "finetune-system"

NEEDED = {
    "docker": "install Docker (https://docs.docker.com/engine/install)",
    "kind": "install kind (https://kind.sigs.k8s.io)",
    "kubectl": "install kubectl (https://kubernetes.io/docs/tasks/tools)",
    "helm": "install Helm (https://helm.sh)",
}
"""The programs that the test needs, each with the remedy if it is missing."""

ABOUT_A_FAILURE = (
    ("kubectl", "get", "pods,jobs,ftj", "--all-namespaces", "-o", "wide"),
    ("kubectl", "describe", "ftj", "--all-namespaces"),
    ("kubectl", "describe", "pods", "-n", NAMESPACE),
    ("kubectl", "describe", "deployments,pods", "-n", SYSTEM),
    ("kubectl", "logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=finetune-operator", "--tail=-1"),
    ("kubectl", "logs", "-n", NAMESPACE, "-l", "finetune.dev/job", "--tail=100", "--prefix"),
    ("docker", "ps", "--all"),
    ("df", "-h"),
)


@dataclass
class Kind:
    """A cluster that the commands under test create, with the files in `folder`; kubectl finds it by KUBECONFIG."""

    name: str
    folder: Path
    kubectl: Kubectl = field(default_factory=lambda: Kubectl(NAMESPACE))
    notes: dict[str, Any] = field(default_factory=dict)
    """Values that a step leaves for later ones."""

    @property
    def workspace(self) -> Path:
        """The folder behind the claim `finetune`, which every node mounts."""
        return self.folder / "workspace" / "kind"

    def environment(self) -> dict[str, str]:
        """Return the environment of a user's shell, without the variables of an outer make."""
        outer = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "BUILD_FLAGS", "OPERATOR_IMAGE", "TRAINER_IMAGE")
        kept = {name: value for name, value in os.environ.items() if name not in outer}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {**kept, "PATH": path, "KIND_CLUSTER": self.name, "WORKSPACE": str(self.folder / "workspace")}

    def shell(self, command: str) -> str:
        """Run a command line in the root of the repository; print its output as it arrives, and return it."""
        print(f"$ {command}", flush=True)
        bash = ["bash", "-euo", "pipefail", "-c", command]
        process = subprocess.Popen(
            bash, cwd=ROOT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        lines = []
        with process:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        assert process.returncode == 0, f"{command}: exit code {process.returncode}"
        return "".join(lines)

    def empty_workspace(self) -> None:
        """Delete the workspace's files through a node, where root may delete files of the pods' user."""
        node = f"{self.name}-control-plane"
        subprocess.run(["docker", "exec", node, "find", "/workspace", "-mindepth", "1", "-delete"])

    def delete(self) -> None:
        """Delete the cluster, if it exists, and all files."""
        if self.name in clusters():
            self.empty_workspace()
            subprocess.run(["kind", "delete", "cluster", "--name", self.name], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def unmet_need(name: str) -> str | None:
    """Return a message about the first requirement that this machine does not meet, or None."""
    for program, remedy in NEEDED.items():
        if not shutil.which(program):
            return f"make e2e needs {program} in PATH: {remedy}"
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "make e2e needs a Docker engine that answers: start one, or set DOCKER_HOST"
    if name in clusters():
        return f"kind has a cluster {name}: kind delete cluster --name {name}, or set KIND_CLUSTER to another name"
    return None


def clusters() -> list[str]:
    """Return the names of kind's clusters on this machine."""
    done = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Print a line when the block begins, and one with the seconds when it ends."""
    start = time.monotonic()
    print(f"\n=== {step} …", flush=True)
    try:
        yield
    except BaseException:
        print(f"=== {step}: FAILED after {time.monotonic() - start:.0f} s", flush=True)
        raise
    print(f"=== {step}: {time.monotonic() - start:.0f} s", flush=True)


@contextmanager
def explained() -> Iterator[None]:
    """If the block fails, print the operator's log and the state of the cluster's objects."""
    try:
        yield
    except BaseException:
        for command in ABOUT_A_FAILURE:
            print(f"\n$ {' '.join(command)}", flush=True)
            subprocess.run(command, stderr=subprocess.STDOUT, timeout=60)
        raise
