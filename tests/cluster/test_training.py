"""Tests of training on a real cluster: pods on two nodes, rendezvous over the network, in a restricted namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.kubectl import Kubectl
from support.manifests import changed

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "examples" / "contracts"
CHILDREN = "configmaps,services,jobs,pods,endpointslices,networkpolicies"
pytestmark = pytest.mark.timeout(900)


def until(kubectl: Kubectl, name: str, what: Callable[[dict[str, Any]], Any], seconds: float = 600) -> dict[str, Any]:
    """Return the first status for which `what` is true; fail at once when the job has failed."""
    deadline = time.monotonic() + seconds
    while True:
        status: dict[str, Any] = kubectl.get("ftj", name).get("status", {})
        if what(status):
            return status
        described = json.dumps(status, indent=1)
        assert status.get("phase") != "Failed", described
        assert time.monotonic() < deadline, described
        time.sleep(0.5)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status.get("conditions", [])}


def children(kubectl: Kubectl, job: str) -> list[str]:
    done = kubectl.run("get", CHILDREN, "-l", f"finetune.dev/job={job}", "-o", "name")
    return done.stdout.split()


def prepare(workspace: Path) -> dict[str, Any]:
    script = CONTRACTS / "make_data.py"
    subprocess.run([sys.executable, str(script), "--workspace", str(workspace)], check=True, capture_output=True)
    manifest: dict[str, Any] = yaml.safe_load((CONTRACTS / "job.yaml").read_text())
    return manifest


def assert_restricted(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = [m["mountPath"] for m in container["volumeMounts"]]
    assert not any("serviceaccount" in mount for mount in mounts)


def test_the_contracts_example_trains_on_two_nodes(
    kubectl: Kubectl, workspace: Path, operator: subprocess.Popen[bytes]
) -> None:
    name = prepare(workspace)["metadata"]["name"]
    kubectl.run("apply", "-f", str(CONTRACTS / "job.yaml"))
    ready = until(kubectl, name, lambda s: conditions(s).get("WorldReady") == "True")
    assert ready["run"]["world"] == 2
    pods = kubectl.get("pods", "-l", f"finetune.dev/job={name}")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    for pod in pods:
        assert_restricted(pod)
    first = until(kubectl, name, lambda s: s.get("progress", {}).get("step", 0) > 0)
    later = until(kubectl, name, lambda s: s["progress"]["step"] > first["progress"]["step"])
    print(kubectl.run("get", "ftj", "-o", "wide").stdout)
    print(kubectl.run("describe", "ftj", name).stdout)
    assert later["progress"]["totalSteps"] >= later["progress"]["step"]
    complete = until(kubectl, name, lambda s: s.get("phase") == "Complete")
    print(kubectl.run("get", "ftj", "-o", "wide").stdout)
    print(kubectl.run("describe", "ftj", name).stdout)
    assert conditions(complete)["Ready"] == "True"
    assert complete["evaluation"]["final"]["accuracy"] > complete["evaluation"]["base"]["accuracy"] + 0.3
    assert_loadable(workspace / complete["result"]["path"])
    kubectl.run("delete", "ftj", name)
    assert_nothing_left(kubectl, name)


def test_full_fine_tuning_with_stage_3_runs_four_ranks_on_two_nodes(
    kubectl: Kubectl, workspace: Path, operator: subprocess.Popen[bytes]
) -> None:
    manifest = changed(
        prepare(workspace),
        {
            "metadata.name": "stage-3",
            "spec.method": {"type": "Full"},
            "spec.deepspeed": {"zeroStage": 3},
            "spec.resources": {"nodes": 2, "gpusPerNode": 0, "processesPerNode": 2, "cpu": 1, "memory": "5Gi"},
            "spec.training": {"maxSteps": 6, "globalBatchSize": 16, "sequenceLength": 32},
        },
    )  # fmt: skip
    kubectl.apply(manifest)
    ready = until(kubectl, "stage-3", lambda s: conditions(s).get("WorldReady") == "True")
    assert (ready["run"]["world"], ready["run"]["zeroStage"]) == (4, 3)
    complete = until(kubectl, "stage-3", lambda s: s.get("phase") == "Complete")
    assert_loadable(workspace / complete["result"]["path"])
    operator.terminate()
    operator.wait(30)
    kubectl.run("delete", "ftj", "stage-3", "--timeout=30s")
    assert_nothing_left(kubectl, "stage-3")


def test_a_job_whose_data_is_missing_fails_with_one_sentence(
    kubectl: Kubectl, workspace: Path, operator: subprocess.Popen[bytes]
) -> None:
    manifest = changed(
        prepare(workspace), {"metadata.name": "no-data", "spec.dataset.uri": "workspace://contracts/none.jsonl"}
    )
    kubectl.apply(manifest)
    deadline = time.monotonic() + 300
    while (status := kubectl.get("ftj", "no-data").get("status", {})).get("phase") != "Failed":
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    (entry,) = status["ledger"]
    assert (entry["class"], entry["counted"], entry["exitCode"]) == ("Invalid", False, 76)
    assert "workspace://contracts/none.jsonl" in entry["message"]
    assert "Traceback" not in entry["message"]
    assert entry["node"]


def assert_loadable(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "from peft import PeftModel\n"
        "adapter = (folder / 'adapter_config.json').exists()\n"
        "base = folder.parent / 'start' if adapter else folder\n"
        "model = Auto.from_pretrained(base)\n"
        "model = PeftModel.from_pretrained(model, folder) if adapter else model\n"
        "print(sum(p.numel() for p in model.parameters()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1_000_000


def assert_nothing_left(kubectl: Kubectl, job: str) -> None:
    deadline = time.monotonic() + 90
    while left := children(kubectl, job):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
