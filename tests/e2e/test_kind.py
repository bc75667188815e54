"""Tests an installation on kind, from its creation to its deletion, with the commands of docs/quickstart.md.

`make e2e` runs it. Each step is a function below, named in STEPS; add a new one at its place in the list.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.conftest import RESTRICTED
from cluster.test_training import CONTRACTS, assert_loadable, children, conditions, until
from e2e.kind import NAMESPACE, SYSTEM, Kind, explained, timed
from e2e.quickstart import blocks
from support.manifests import changed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

NAME = "contract-clauses"
LABEL_OF_RUN = f"finetune.dev/job={NAME},finetune.dev/run"
OPERATOR = "finetune-operator"
DEFINITION = "crd/finetunejobs.finetune.dev"
METRICS = f"/api/v1/namespaces/{SYSTEM}/services/{OPERATOR}:http/proxy/metrics"
FINISHED = {"Ready": "True", "Reconciling": "False", "Stalled": "False", "Complete": "True", "Failed": "False"}
TRANSIENT = {"events", "events.events.k8s.io", "leases.coordination.k8s.io"}
"""Resources that appear and disappear by themselves."""


def the_programs_and_the_data_are_made(kind: Kind) -> None:
    for command in quickstart(kind, "python3 -m venv", "make_data.py"):
        kind.shell(command)


def the_images_are_built(kind: Kind) -> None:
    """Build the images separately to measure the time; `make kind`, the next step, would build them too."""
    (command,) = quickstart(kind, "make kind")
    kind.shell(command.replace("make kind", "make images"))


def the_cluster_is_made_and_gets_the_images(kind: Kind) -> None:
    for command in quickstart(kind, "make kind"):
        kind.shell(command)
    kind.kubectl.run("label", "namespace", NAMESPACE, *(f"{key}={value}" for key, value in RESTRICTED.items()))
    kind.kubectl.run("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=120s")
    kind.notes["before"] = objects(kind)


def the_chart_is_installed(kind: Kind) -> None:
    for command in quickstart(kind, "helm install"):
        kind.shell(command)
    until_rolled_out(kind)


def the_example_trains_to_its_end_as_a_user_sees_it(kind: Kind) -> None:
    output = ""
    for command in quickstart(kind, "kubectl apply", "finetune watch"):
        output = kind.shell(command)
    assert "Training: step " in output
    assert "accuracy" in output
    (model,) = [line for line in output.splitlines() if line.startswith("Model: ")]
    status = assert_complete(kind, number=1)
    kind.notes["undisturbed"] = status["evaluation"]["final"]
    assert model == f"Model: pvc://finetune/{status['result']['path']}"
    assert status["run"]["world"] == 2
    pods = kind.kubectl.get("pods", "-l", f"finetune.dev/job={NAME}")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2


def there_is_something_to_look_at(kind: Kind) -> None:
    _, look, _ = blocks(kind)
    output = "".join(kind.shell(command) for command in look)
    assert "Complete" in output
    reasons = {event["reason"] for event in kind.kubectl.get("events", f"--field-selector=involvedObject.name={NAME}")}
    assert {"AllRanksAttested", "Training", "Complete"} <= reasons
    samples = metrics(kind)
    assert samples['finetune_jobs{phase="Complete"}'] == 1
    assert samples['finetune_attempts_total{class="Success"}'] == 1
    assert samples["finetune_world_ready_seconds_count"] == 1


def a_claim_for_one_node_is_refused_to_a_job_on_two(kind: Kind) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "one-node"}
    kind.kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim}
    )  # kind's own storage class provides the volume
    kind.kubectl.apply(changed(example(), {"metadata": metadata, "spec.storage": {"claimName": "one-node"}}))
    kind.kubectl.run("wait", "ftj/one-node", "--for=condition=Stalled", "--timeout=60s")
    (stalled,) = [c for c in kind.kubectl.get("ftj", "one-node")["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled["reason"] == "VolumeNotShared"
    assert "claim one-node is ReadWriteOnce" in stalled["message"]
    assert children(kind.kubectl, "one-node") == []
    kind.kubectl.run("delete", "ftj,pvc", "one-node", "--timeout=60s")


def the_example_is_made_anew_and_a_pod_is_deleted_in_the_middle(kind: Kind) -> None:
    """Train the example as a new job, because an unchanged recipe with a model would not train again."""
    kind.kubectl.run("delete", "ftj", NAME, "--timeout=30s")
    kind.kubectl.run("wait", "pods", "-l", f"finetune.dev/job={NAME}", "--for=delete", "--timeout=60s")
    kind.kubectl.run("apply", "-f", "-", stdin=json.dumps(example()))
    until(kind.kubectl, NAME, lambda s: share_done(s) > 0.25)
    delete_a_pod(kind, number=1)


def the_run_that_resumed_ends_with_the_metrics_of_the_undisturbed_one(kind: Kind) -> None:
    until(kind.kubectl, NAME, lambda s: s["phase"] == "Complete")
    status = assert_complete(kind, number=1, attempt=2)
    assert status["evaluation"]["final"] == pytest.approx(kind.notes["undisturbed"], rel=0, abs=1e-6)


def another_run_with_stage_3_is_asked_for_by_an_edit(kind: Kind) -> None:
    edited = changed(example(), {"spec.training.seed": 18, "spec.training.epochs": 2, "spec.deepspeed.zeroStage": 3})
    kind.kubectl.run("apply", "-f", "-", stdin=json.dumps(edited))
    training = until(kind.kubectl, NAME, lambda s: of_run(s, 2) and share_done(s) > 0)
    assert (training["run"]["zeroStage"], training["run"]["world"]) == (3, 2)
    remember(kind, training)


def the_chart_is_upgraded_while_it_trains(kind: Kind) -> None:
    other = ["--set", "trainer.image.repository=another-trainer", "--set", "podAnnotations.example\\.com/upgraded=yes"]
    chart = ["charts/finetune-operator", "--namespace", SYSTEM]
    kind.shell(" ".join(["helm", "upgrade", "finetune", *chart, *(f"'{word}'" for word in other)]))
    until_rolled_out(kind)
    assert_undisturbed(kind)


def the_operator_is_restarted_while_it_trains(kind: Kind) -> None:
    kind.kubectl.run("delete", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=finetune-operator", "--wait")
    until_rolled_out(kind)
    assert_undisturbed(kind)


def a_pod_is_deleted_and_the_next_attempt_has_the_image_of_the_run(kind: Kind) -> None:
    training = delete_a_pod(kind, number=2)
    assert training["run"]["image"] == kind.notes["run"]["image"], "not that of the upgraded chart"
    remember(kind, training)


def the_second_run_trains_to_its_end(kind: Kind) -> None:
    (watch,) = quickstart(kind, "finetune watch")
    assert "Model: " in kind.shell(watch)
    status = assert_complete(kind, number=2, attempt=2)
    run = kind.notes["run"]
    assert status["run"].items() >= run.items()
    (job,) = kind.kubectl.get("jobs", "-l", f"{LABEL_OF_RUN}={run['number']}")
    assert job["metadata"]["uid"] == run["jobUid"], "the Job of the attempt before is gone"
    assert pods_of(kind, run) == kind.notes["pods"]


def the_release_is_uninstalled_and_its_jobs_stay(kind: Kind) -> None:
    _, _, undo = blocks(kind)
    kind.shell(undo[0])
    assert kind.kubectl.get("ftj", NAME)["status"]["phase"] == "Complete"
    kind.kubectl.run("get", DEFINITION)


def jobs_are_deleted_without_an_operator_and_nothing_is_left(kind: Kind) -> None:
    kind.kubectl.run("delete", "ftj", "--all", "--timeout=30s")
    kind.kubectl.run("delete", DEFINITION, "--timeout=30s")
    kind.kubectl.run("delete", "namespace", SYSTEM, "--timeout=60s")
    deadline = time.monotonic() + 120
    while left := objects(kind) - kind.notes["before"]:
        assert time.monotonic() < deadline, f"left in the cluster: {sorted(left)}"
        time.sleep(1)
    assert (kind.workspace / kind.notes["results"][-1]).is_dir(), "results belong to the user"


def the_cluster_is_deleted(kind: Kind) -> None:
    _, _, undo = blocks(kind)
    kind.empty_workspace()
    for command in undo[1:]:
        kind.shell(command)


STEPS: list[Callable[[Kind], None]] = [
    the_programs_and_the_data_are_made,
    the_images_are_built,
    the_cluster_is_made_and_gets_the_images,
    the_chart_is_installed,
    the_example_trains_to_its_end_as_a_user_sees_it,
    there_is_something_to_look_at,
    a_claim_for_one_node_is_refused_to_a_job_on_two,
    the_example_is_made_anew_and_a_pod_is_deleted_in_the_middle,
    the_run_that_resumed_ends_with_the_metrics_of_the_undisturbed_one,
    another_run_with_stage_3_is_asked_for_by_an_edit,
    the_chart_is_upgraded_while_it_trains,
    the_operator_is_restarted_while_it_trains,
    a_pod_is_deleted_and_the_next_attempt_has_the_image_of_the_run,
    the_second_run_trains_to_its_end,
    the_release_is_uninstalled_and_its_jobs_stay,
    jobs_are_deleted_without_an_operator_and_nothing_is_left,
    the_cluster_is_deleted,
]


def test_an_installation_on_kind_trains_is_upgraded_and_leaves_nothing_behind(kind: Kind) -> None:
    with explained():
        for step in STEPS:
            with timed(step.__name__.replace("_", " ")):
                step(kind)


# ---- helpers --------------------------------------------------------------------------------------------------------


def quickstart(kind: Kind, *words: str) -> list[str]:
    """Return the commands of the page's first block that contain one of these words, exactly one for each word."""
    found = [command for command in blocks(kind)[0] if any(word in command for word in words)]
    assert len(found) == len(words), f"docs/quickstart.md: {found}"
    return found


def example() -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((CONTRACTS / "job.yaml").read_text())
    return manifest


def of_run(status: dict[str, Any], number: int) -> bool:
    return bool(status.get("run", {}).get("number") == number)


def share_done(status: dict[str, Any]) -> float:
    """Return the share of the run's steps that its newest attempt has reported, from 0 to 1."""
    progress = status.get("progress")
    return progress["step"] / progress["totalSteps"] if progress else 0.0


def remember(kind: Kind, training: dict[str, Any]) -> None:
    """Remember the attempt that trains now; later steps must not disturb it."""
    kind.notes["run"] = training["run"]
    kind.notes["pods"] = pods_of(kind, training["run"])


def delete_a_pod(kind: Kind, number: int) -> dict[str, Any]:
    """Delete a pod of a run's first attempt; return the status in which the second one trains.

    The second attempt begins at the checkpoint of the first.
    """
    pods = kind.kubectl.get("pods", "-l", f"{LABEL_OF_RUN}={number}")
    kind.kubectl.run("delete", "pod", pods[-1]["metadata"]["name"], "--wait=false")
    training = until(kind.kubectl, NAME, lambda s: s["run"]["attempt"] == 2 and share_done(s) > 0)
    entry = training["ledger"][-1]
    assert (entry["run"], entry["attempt"], entry["class"], entry["counted"]) == (number, 1, "Preempted", False)
    assert pods[-1]["metadata"]["name"] in entry["message"]
    assert entry["checkpointStep"] >= 1
    assert training["run"]["checkpointStep"] == entry["checkpointStep"]
    assert training["progress"]["step"] >= entry["checkpointStep"]
    events = [event for event in kind.kubectl.get("events.events.k8s.io") if event["reason"] == "Restarting"]
    (told,) = [event["note"] for event in events if f" of run {number} starts" in event["note"]]
    assert told.startswith(f"Attempt 2 of run {number} starts now, from step {entry['checkpointStep']}; ")
    return training


def until_rolled_out(kind: Kind) -> None:
    kind.kubectl.run("rollout", "status", f"deployment/{OPERATOR}", "-n", SYSTEM, "--timeout=100s")


def pods_of(kind: Kind, run: dict[str, Any]) -> set[tuple[str, int]]:
    """Return the UID and the number of restarts of each pod of an attempt."""
    selector = f"{LABEL_OF_RUN}={run['number']},finetune.dev/attempt={run['attempt']}"
    pods = kind.kubectl.get("pods", "-l", selector)
    return {(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in pods}


def metrics(kind: Kind) -> dict[str, float]:
    """Return the operator's own metrics, as Prometheus reads them."""
    text = kind.kubectl.run("get", "--raw", METRICS).stdout
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def assert_undisturbed(kind: Kind) -> None:
    """Check that the same pods train on, and that the current operator reports their progress."""
    run = kind.notes["run"]
    at = kind.kubectl.get("ftj", NAME)["status"]["progress"]["step"]
    status = until(kind.kubectl, NAME, lambda s: s["progress"]["step"] > at or s["phase"] == "Complete", seconds=120)
    assert status["phase"] == "Training", "the run was over before this step; give it more to do"
    assert (status["run"]["number"], status["run"]["attempt"], status["run"]["image"]) == (2, 1, run["image"])
    assert pods_of(kind, run) == kind.notes["pods"]


def assert_complete(kind: Kind, number: int, attempt: int = 1) -> dict[str, Any]:
    """Check the run's end in the status and on the storage; return the status."""
    job = kind.kubectl.get("ftj", NAME)
    status: dict[str, Any] = job["status"]
    assert status["phase"] == "Complete"
    assert conditions(status).items() >= FINISHED.items()
    assert status["observedGeneration"] == job["metadata"]["generation"]
    assert {c["observedGeneration"] for c in status["conditions"]} == {job["metadata"]["generation"]}
    assert (status["run"]["number"], status["run"]["attempt"]) == (number, attempt)
    assert status["ledger"][-1]["class"] == "Success"
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    assert status["evaluation"]["final"]["accuracy"] > status["evaluation"]["base"]["accuracy"] + 0.3
    output = kind.workspace / status["result"]["path"]
    assert_artefacts(output)
    kind.notes.setdefault("results", []).append(status["result"]["path"])
    return status


def assert_artefacts(output: Path) -> None:
    assert (output / "README.md").read_text().count("accuracy")
    rows = [json.loads(line) for line in (output.parent / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 1
    assert_loadable(output)


def objects(kind: Kind) -> set[str]:
    """Return kind/namespace/name of all lasting objects of the cluster."""
    listed = kind.kubectl.run("api-resources", "--verbs=list", "-o", "name").stdout.split()
    resources = ",".join(sorted(set(listed) - TRANSIENT))
    columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    done = subprocess.run(
        ["kubectl", "get", resources, "--all-namespaces", "--no-headers", "-o", columns],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {"/".join(line.split()) for line in done.stdout.splitlines()}
