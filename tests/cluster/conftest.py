"""Fixtures for tests on the real cluster of KUBECONFIG, with kubectl in PATH.

Without KUBECONFIG these tests are skipped. FINETUNE_TEST_IMAGE names the trainer's image. The default image has only
Python and finds its packages in /workspace/.packages: a copy of this environment's packages, made of hard links in the
folder behind the claim. The nodes must therefore see this machine's file system.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.faults import Ground, ground_in, operating, slots
from cluster.image import DEFAULT_IMAGE, TEST_IMAGE
from support.helm import Helm, helm_or_skip
from support.kubectl import Kubectl
from support.releases import Releases, releases_in

ROOT = Path(__file__).parents[2]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CRD = "crd/finetunejobs.finetune.dev"
OWNER = "meta.helm.sh/release-"
FROM_KUBECTL = ("--take-ownership", "--force-conflicts")
"""Flags with which helm takes over a definition that kubectl has applied."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if "KUBECONFIG" not in os.environ:
                item.add_marker(pytest.mark.skip(reason="needs a cluster: set KUBECONFIG and run make test-cluster"))


@pytest.fixture(scope="session")
def crd() -> None:
    """Apply the definition of FineTuneJob to the cluster."""
    Kubectl("default").run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    Kubectl("default").run("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=30s")


@contextlib.contextmanager
def new_namespace() -> Iterator[Kubectl]:
    """Provide a namespace that enforces restricted Pod Security; delete it when the block ends."""
    cluster = Kubectl(f"test-{uuid.uuid4().hex[:8]}")
    metadata = {"name": cluster.namespace, "labels": RESTRICTED}
    cluster.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    yield cluster
    cluster.run("delete", "namespace", cluster.namespace, "--wait=false", "--ignore-not-found")


@pytest.fixture
def kubectl(crd: None) -> Iterator[Kubectl]:
    """Provide a namespace for one test."""
    with new_namespace() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Return helm with this repository's chart."""
    return helm_or_skip()


@pytest.fixture
def releases(helm: Helm, kubectl: Kubectl) -> Iterator[Releases]:
    """Provide the releases in the namespace."""
    with releases_in(helm, kubectl) as found:
        yield found


@pytest.fixture
def crd_of_kubectl(kubectl: Kubectl) -> None:
    """Apply the definition as kubectl does, without the marks of earlier releases."""
    kubectl.run("annotate", CRD, f"{OWNER}name-", f"{OWNER}namespace-")
    kubectl.run("label", CRD, "app.kubernetes.io/managed-by-")
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))


@contextlib.contextmanager
def new_workspace(kubectl: Kubectl) -> Iterator[Path]:
    """Provide the folder behind the claim `finetune`, which every node can read and write; delete it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="finetune-cluster-"))
    folder.chmod(0o777)
    size = {"storage": "20Gi"}
    volume = f"{kubectl.namespace}-workspace"
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**spec, "capacity": size, "hostPath": {"path": str(folder)}},
        }
    )
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "finetune"},
            "spec": {**spec, "volumeName": volume, "resources": {"requests": size}},
        }
    )
    yield folder
    kubectl.run("delete", "pv", volume, "--wait=false")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workspace(kubectl: Kubectl) -> Iterator[Path]:
    """Provide the folder behind the claim `finetune`, with the trainer's packages if the image lacks them."""
    with new_workspace(kubectl) as folder:
        add_packages(folder)
        yield folder


def add_packages(folder: Path) -> None:
    """Add the trainer's packages if the image lacks them."""
    if TEST_IMAGE == DEFAULT_IMAGE:
        packages = sysconfig.get_path("purelib")
        linked = subprocess.run(["cp", "-al", packages, folder / ".packages"])
        if linked.returncode:  # the folder is on another file system
            subprocess.run(["cp", "-a", f"{packages}/.", folder / ".packages"], check=True)
        shutil.copytree(ROOT / "trainer" / "finetune_trainer", folder / ".packages" / "finetune_trainer")


@pytest.fixture(scope="module")
def shared_ground(crd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Provide a namespace with a running operator and ranks that a test directs, shared by the tests of a module."""
    with (
        new_namespace() as kubectl,
        new_workspace(kubectl) as workspace,
        operating([kubectl.namespace], tmp_path_factory.mktemp("operator")) as operator,
    ):
        yield ground_in(kubectl, workspace, operator)


@pytest.fixture
def ground(shared_ground: Ground) -> Iterator[Ground]:
    """Provide the module's namespace for one test, and clear it afterwards."""
    yield shared_ground
    shared_ground.clear()


@pytest.fixture(scope="module")
def all_slots(shared_ground: Ground) -> Iterator[dict[str, Any]]:
    """Return `spec.resources` for a job that leaves no node for another such job."""
    with slots(shared_ground.kubectl) as resources:
        yield resources


@pytest.fixture
def operator(kubectl: Kubectl, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `finetune operator` for the namespace on this machine, which must reach the pods' addresses."""
    arguments = ["operator", "--namespace", kubectl.namespace, "--trainer-image", TEST_IMAGE, "--http-port", "0"]
    # This kubeconfig puts the operator's Lease into the namespace, too.
    environment = os.environ | {"KUBECONFIG": str(kubectl.own_kubeconfig(tmp_path / "operator.kubeconfig"))}
    log = tmp_path / "operator.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "finetune_operator.cli.main", *arguments]
        process = subprocess.Popen(command, env=environment, stderr=output)
    yield process
    process.terminate()
    process.wait(30)
    print(log.read_text())
