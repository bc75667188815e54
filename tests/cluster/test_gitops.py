"""Tests of GitOps on a real cluster: health in every phase of real runs, and manifests that never drift.

With FINETUNE_RECORD set, the objects of the phases are written to tests/support/recorded, as `make record` does.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.conftest import ROOT, TEST_IMAGE
from gitops.verdicts import DONE, GOING, PAUSED, STUCK, VERDICTS, WORKING, verdict_of
from support.health import DOCUMENTS, HEALTH_LUA
from support.kubectl import Kubectl
from support.manifests import changed
from support.recordings import write

from finetune_operator.core.settings import Settings
from finetune_operator.kube.client import KubeCluster
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, Object
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.handlers import inform

EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))
CONTRACTS = ROOT / "examples" / "contracts"
UNREADABLE = "file:///srv/model"
"""A model that the schema accepts and the operator refuses."""
FREQUENT = Settings(image=TEST_IMAGE, starting_interval=0.2, progress_interval=0.2, peers_interval=1)
pytestmark = pytest.mark.timeout(600)


# ---- health ----------------------------------------------------------------------------------------------------------


class Watched:
    """All FineTuneJobs of a namespace, in every state that a watch has reported."""

    def __init__(self, cluster: KubeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.seen: list[Object] = []

    async def watch(self) -> None:
        async for event in self.cluster.watch(FINETUNEJOBS, self.namespace):
            event.object["metadata"].pop("managedFields", None)
            self.seen.append(event.object)

    async def first(self, name: str, what: Callable[[Object], Any], seconds: float = 240) -> Object:
        """Return the first state of the job for which `what` is true."""
        deadline = time.monotonic() + seconds
        while True:
            states = [obj for obj in self.seen if obj["metadata"]["name"] == name]
            if found := next(filter(what, states), None):
                return found
            assert time.monotonic() < deadline, f"{name} was never so; its last state: {states[-1:]}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def watched(namespace: str) -> AsyncIterator[Watched]:
    cluster = await KubeCluster.connect()
    jobs = Watched(cluster, namespace)
    watching = asyncio.create_task(jobs.watch())
    try:
        yield jobs
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await cluster.close()


@asynccontextmanager
async def operated(jobs: Watched) -> AsyncIterator[None]:
    """Run an operator that reconciles so often that no phase is missed, until the block ends."""
    informing = partial(inform, namespaces=[jobs.namespace], take_signals=lambda: None)
    operator = asyncio.create_task(operate(jobs.cluster, FREQUENT, informing, Options(namespaces=[jobs.namespace])))
    try:
        yield
    finally:
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)


def in_phase(phase: str, generation: int = 1, observed: int = 1) -> Callable[[Object], bool]:
    def so(obj: Object) -> bool:
        status = obj["status"]
        return (status.get("phase"), obj["metadata"]["generation"], status["observedGeneration"]) == (
            phase,
            generation,
            observed,
        )

    return so


def stalled(reason: str) -> Callable[[Object], bool]:
    wanted = ("Stalled", "True", reason)
    return lambda obj: any((c["type"], c["status"], c["reason"]) == wanted for c in obj["status"].get("conditions", []))


def job(name: str, **changes: Any) -> dict[str, Any]:
    """Return the contracts example with few steps and many rows to evaluate, so that every phase takes time."""
    manifest: dict[str, Any] = yaml.safe_load((CONTRACTS / "job.yaml").read_text())
    small = {
        "metadata.name": name,
        "spec.resources": {"nodes": 1, "gpusPerNode": 0, "cpu": "1", "memory": "4Gi"},
        "spec.dataset.evaluation.fraction": 0.5,
        "spec.training": {"maxSteps": 20, "globalBatchSize": 16, "sequenceLength": 32},
    }
    return changed(manifest, {**small, **changes})


def claim_for_one_node(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.fixture
def data(workspace: Path) -> None:
    """Write the data of the contracts example to the workspace."""
    script = CONTRACTS / "make_data.py"
    subprocess.run([sys.executable, str(script), "--workspace", str(workspace)], check=True, capture_output=True)


async def test_every_phase_of_real_runs_has_the_health_that_its_user_expects(kubectl: Kubectl, data: None) -> None:
    found: dict[str, Object] = {}
    async with watched(kubectl.namespace) as jobs:
        kubectl.apply(job("clauses"))
        found["created"] = await jobs.first("clauses", lambda obj: "phase" not in obj["status"])
        kubectl.apply(job("taken"))
        taken = await jobs.first("taken", bool)
        stranger = f"taken-{taken['metadata']['uid'].replace('-', '')[:5]}-1-1"
        await jobs.cluster.create(
            CONFIGMAPS,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": stranger, "namespace": jobs.namespace}},
        )
        async with operated(jobs):
            found["name-conflict"] = await jobs.first("taken", stalled("NameConflict"))
            found["starting"] = await jobs.first("clauses", in_phase("Starting"))
            found["training"] = await jobs.first("clauses", in_phase("Training"))
            kubectl.apply(job("clauses", **{"spec.resources.memory": "5Gi"}))
            found["edited-while-training"] = await jobs.first("clauses", in_phase("Training", 2, 1))
            kubectl.apply(job("crowded", **{"spec.resources.cpu": "4000"}))
            found["pending"] = await jobs.first("crowded", lambda obj: "too little free cpu" in str(obj["status"]))
            kubectl.apply(job("unreadable", **{"spec.model.uri": UNREADABLE}))
            found["invalid-spec"] = await jobs.first("unreadable", stalled("InvalidSpec"))
            kubectl.apply(claim_for_one_node("single"))
            several = {"spec.resources.nodes": 2, "spec.storage": {"claimName": "single"}}
            kubectl.apply(job("several", **several))
            found["volume-not-shared"] = await jobs.first("several", stalled("VolumeNotShared"))

            kubectl.apply(job("paused", **{"spec.suspend": True}))
            found["suspended-from-the-beginning"] = await jobs.first("paused", in_phase("Suspended"))
            kubectl.apply(job("paused", **{"spec.suspend": False}))
            await jobs.first("paused", in_phase("Starting", 2, 2))
            kubectl.run("delete", "pod", "-l", "finetune.dev/job=paused", "--wait=false")
            found["restarting"] = await jobs.first("paused", in_phase("Restarting", 2, 2))
            await jobs.first(
                "paused", lambda obj: in_phase("Starting", 2, 2)(obj) and obj["status"]["run"]["attempt"] == 2
            )
            kubectl.apply(job("paused", **{"spec.suspend": True}))
            found["suspending"] = await jobs.first("paused", in_phase("Suspending", 3, 3))
            found["suspended"] = await jobs.first("paused", in_phase("Suspended", 3, 3))

            found["exporting"] = await jobs.first("clauses", in_phase("Exporting", 2, 1))
            found["edited-when-complete"] = await jobs.first("clauses", in_phase("Complete", 2, 1))
            found["complete"] = await jobs.first("clauses", in_phase("Complete", 2, 2))
            kubectl.apply(job("clauses", **{"spec.model.uri": UNREADABLE}))
            found["edited-to-an-invalid-spec"] = await jobs.first("clauses", stalled("InvalidSpec"))

            kubectl.apply(job("nothing", **{"spec.dataset.uri": "workspace://contracts/none.jsonl"}))
            found["failed"] = await jobs.first("nothing", in_phase("Failed"))
            kubectl.run("create", "quota", "parts", "--hard=count/configmaps=1")
            kubectl.run("wait", "--for=jsonpath={.status.used}", "quota/parts", "--timeout=30s")
            kubectl.apply(job("refused"))
            found["refused"] = await jobs.first("refused", stalled("Refused"))
            kubectl.run("delete", "ftj", "nothing", "--cascade=foreground")
            found["deleted"] = await jobs.first("nothing", lambda obj: "deletionTimestamp" in obj["metadata"])
    for name, obj in found.items():
        assert verdict_of(obj) == VERDICTS[name], name
    for obj in jobs.seen:
        assert verdict_of(obj) in (WORKING, PAUSED, DONE, STUCK, GOING), obj
    if "FINETUNE_RECORD" in os.environ:
        for name, obj in found.items():
            write("cluster", name, obj)


# ---- no drift --------------------------------------------------------------------------------------------------------


def settled(kubectl: Kubectl, operator: subprocess.Popen[bytes], names: set[str]) -> None:
    """Wait until the operator has written a status of each job, then stop it, so that it writes no other."""
    deadline = time.monotonic() + 60
    while {obj["metadata"]["name"] for obj in kubectl.get("ftj") if "phase" in obj["status"]} != names:
        assert time.monotonic() < deadline, kubectl.run("get", "ftj").stdout
        time.sleep(0.2)
    operator.terminate()
    operator.wait(30)


def versions(kubectl: Kubectl) -> dict[str, tuple[str, Any]]:
    """Return the resourceVersion and the managed fields of each job."""
    found = kubectl.get("ftj", "--show-managed-fields")
    return {o["metadata"]["name"]: (o["metadata"]["resourceVersion"], o["metadata"]["managedFields"]) for o in found}


@pytest.fixture(scope="module")
def files() -> list[str]:
    return [argument for path in EXAMPLES for argument in ("-f", str(path))]


@pytest.fixture(scope="module")
def names() -> set[str]:
    return {yaml.safe_load(path.read_text())["metadata"]["name"] for path in EXAMPLES}


@pytest.mark.parametrize("manager", ["kubectl", "argocd-controller", "kustomize-controller"])
def test_applying_server_side_again_changes_nothing(
    kubectl: Kubectl, operator: subprocess.Popen[bytes], manager: str, files: list[str], names: set[str]
) -> None:
    as_engine = ["--server-side", f"--field-manager={manager}", "--force-conflicts", *files]
    kubectl.run("apply", *as_engine)
    settled(kubectl, operator, names)
    before = versions(kubectl)
    kubectl.run("diff", *as_engine)
    kubectl.run("apply", *as_engine)
    assert versions(kubectl) == before


def test_applying_client_side_again_changes_nothing(
    kubectl: Kubectl, operator: subprocess.Popen[bytes], files: list[str], names: set[str]
) -> None:
    """Argo CD does so by default, with a three-way merge against the last applied manifest in an annotation."""
    kubectl.run("apply", *files)
    settled(kubectl, operator, names)
    before = versions(kubectl)
    kubectl.run("diff", *files)
    said = kubectl.run("apply", *files).stdout.splitlines()
    assert all(line.endswith(" unchanged") for line in said), said
    assert len(said) == len(names)
    assert versions(kubectl) == before


def test_a_diff_is_seen_when_there_is_one(kubectl: Kubectl, crd: None, tmp_path: Path) -> None:
    """Show that the two tests above can fail."""
    kubectl.apply(job("clauses"))
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump(job("clauses", **{"spec.training.maxSteps": 13})))
    done = kubectl.run("diff", "--server-side", "--force-conflicts", "-f", str(edited), check=False)
    assert done.returncode == 1
    assert "maxSteps: 13" in done.stdout


def test_the_health_is_added_to_the_settings_of_argo(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "argocd-cm", "--from-literal=url=https://argocd.example.com")
    # The documents add -n argocd.
    kubectl.run("apply", "--server-side", "-f", str(DOCUMENTS / "argocd-cm.yaml"))
    data = kubectl.get("configmap", "argocd-cm")["data"]
    assert data.pop("url") == "https://argocd.example.com"
    assert list(data.values()) == [HEALTH_LUA.read_text()]
