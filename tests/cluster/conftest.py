"""A real cluster, by KUBECONFIG, with kubectl in PATH. Without one these tests are skipped, and say so.

FINETUNE_TEST_IMAGE names the trainer's image. By default that is one with Python alone, which finds its packages in
/workspace/.packages: a copy of this environment's, made of hard links in the folder behind the claim, so the nodes must
see this machine's file system.
"""

from __future__ import annotations

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

import pytest
from support.kubectl import Kubectl

ROOT = Path(__file__).parents[2]
DEFAULT_IMAGE = "localhost/trainer-test:dev"
TEST_IMAGE = os.environ.get("FINETUNE_TEST_IMAGE", DEFAULT_IMAGE)
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if "KUBECONFIG" not in os.environ:
                item.add_marker(pytest.mark.skip(reason="needs a cluster: set KUBECONFIG and run make test-cluster"))


@pytest.fixture(scope="session")
def crd() -> None:
    """The FineTuneJob's definition is in the cluster."""
    Kubectl("default").run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    Kubectl("default").run("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", "--timeout=30s")


@pytest.fixture
def kubectl(crd: None) -> Iterator[Kubectl]:
    """A namespace of its own that enforces restricted Pod Security."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster = Kubectl(name)
    labels = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    cluster.run("create", "-f", "-", stdin=labels)
    yield cluster
    cluster.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def workspace(kubectl: Kubectl) -> Iterator[Path]:
    """The folder behind the claim `finetune`, which every node can read and write."""
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
    if TEST_IMAGE == DEFAULT_IMAGE:
        packages = sysconfig.get_path("purelib")
        linked = subprocess.run(["cp", "-al", packages, folder / ".packages"])
        if linked.returncode:  # another file system
            subprocess.run(["cp", "-a", f"{packages}/.", folder / ".packages"], check=True)
        shutil.copytree(ROOT / "trainer" / "finetune_trainer", folder / ".packages" / "finetune_trainer")
    yield folder
    kubectl.run("delete", "pv", volume, "--wait=false")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def operator(kubectl: Kubectl, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`finetune operator` for the namespace, on this machine, with the pods' addresses in reach."""
    arguments = ["operator", "--namespace", kubectl.namespace, "--trainer-image", TEST_IMAGE, "--http-port", "0"]
    log = tmp_path / "operator.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "finetune_operator.cli.main", *arguments], stderr=output)
    yield process
    process.terminate()
    process.wait(30)
    print(log.read_text())
