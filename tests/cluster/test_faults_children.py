"""Tests with children that are deleted, and claims that do not exist yet: the operator recreates or waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cluster.faults import ONE_NODE, Ground, classes, eventually, message, ready_nodes, reason, true_conditions

pytestmark = pytest.mark.timeout(300)
JOB = "clauses"
CLAIM = "corpus"


def test_children_that_somebody_deletes_while_pods_wait_are_made_again_and_the_pods_start(ground: Ground) -> None:
    kubectl, label = ground.kubectl, f"test/{ground.kubectl.namespace}"
    ground.start(JOB, **{"spec.podTemplate.nodeSelector": {label: "here"}})
    ground.until(JOB, lambda s: reason(s) == "Unschedulable")
    before = {kind: child(ground, kind) for kind in ("configmap", "service")}
    for kind, old in before.items():
        kubectl.run("delete", kind, old["metadata"]["name"])
    for kind, old in before.items():
        made = eventually(lambda kind=kind: child(ground, kind), ground.operator.log, seconds=20)  # type: ignore[misc]
        assert made["metadata"]["uid"] != old["metadata"]["uid"]
        assert made.get("data") == old.get("data")
    eventually(lambda: kinds_made_again(ground) == ["ConfigMap", "Service"], lambda: kinds_made_again(ground))
    node = ready_nodes(kubectl)[-1]
    kubectl.run("label", "node", node, f"{label}=here")
    try:
        ground.training(JOB)
        assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
        ground.leaves_nothing(JOB)
    finally:
        kubectl.run("label", "node", node, f"{label}-")


def kinds_made_again(ground: Ground) -> list[str]:
    """Return the kinds of the children of which an event says that they were created again."""
    events = ground.kubectl.get("events.events.k8s.io")
    return sorted(event["note"].split()[0] for event in events if event["reason"] == "MadeAgain")


def child(ground: Ground, kind: str) -> dict[str, Any]:
    """Return the job's only child of a kind, or an empty object if there is none."""
    found: list[dict[str, Any]] = ground.kubectl.get(kind, "-l", f"finetune.dev/job={JOB}")
    return found[0] if found else {}


@pytest.fixture
def volume(ground: Ground) -> Iterator[dict[str, Any]]:
    """Provide a volume, and the spec of a claim for it that does not exist yet."""
    name, size = f"{ground.kubectl.namespace}-{CLAIM}", {"storage": "1Gi"}
    spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    path = {"path": str(ground.workspace)}
    behind = {**spec, "capacity": size, "hostPath": path}
    ground.kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": behind})
    yield {**spec, "volumeName": name, "resources": {"requests": size}}
    ground.kubectl.run("delete", "pvc", CLAIM, "--wait=false", "--ignore-not-found")
    ground.kubectl.run("delete", "pv", name, "--wait=false")


def test_a_job_waits_without_pods_for_a_claim_that_comes_later(ground: Ground, volume: dict[str, Any]) -> None:
    ground.start(JOB, **{"spec.resources": ONE_NODE, "spec.dataset.uri": f"pvc://{CLAIM}/train.jsonl"})
    waiting = ground.until(JOB, lambda s: reason(s) == "ClaimNotFound")
    assert message(waiting) == (
        f"dataset.uri: there is no claim {CLAIM} in namespace {ground.kubectl.namespace}; create it or name another "
        "one, and the job goes on by itself"
    )
    assert (waiting["phase"], true_conditions(waiting)) == ("Pending", {"Reconciling"})
    assert ground.kubectl.get("jobs") == []
    metadata = {"name": CLAIM}
    ground.kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": volume})
    ground.training(JOB)
    assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
    ground.kubectl.run("delete", "ftj", JOB)
