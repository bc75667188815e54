"""Tests that a job which cannot start reports which pod waits and why, does not fail, and starts when it can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cluster.conftest import RESTRICTED
from cluster.faults import Ground, classes, eventually, message, ready_nodes, reason, true_conditions
from cluster.image import TEST_IMAGE

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"
QUOTA, LIMIT = "few-pods", "little-memory"


def test_an_image_that_does_not_exist_is_told_until_startup_minutes_end_the_job(ground: Ground) -> None:
    """One minute is the shortest value of startupMinutes."""
    image = "localhost/nobody-has-made-this:1"
    ground.start(JOB, **{"spec.image": image, "spec.faultTolerance": {"maxRestarts": 0, "startupMinutes": 1}})
    ground.until(JOB, lambda s: "ImagePull" in message(s))
    (pod, *_) = ground.pods(JOB)
    waiting = ground.until(JOB, lambda s: pod["metadata"]["name"] in message(s))
    assert waiting["phase"] == "Starting"
    assert true_conditions(waiting) == {"Reconciling"}
    assert waiting.get("ledger", []) == []
    assert image in message(waiting)

    failed = ground.in_phase(JOB, "Failed", attempt=1, seconds=90)
    (entry,) = failed["ledger"]
    assert (entry["class"], entry["counted"]) == ("StartupTimeout", True)
    assert entry["node"] in ready_nodes(ground.kubectl)
    assert f"pod {entry['pod']} on node {entry['node']}: " in entry["message"]
    assert image in entry["message"]
    assert message(failed, "Stalled").startswith("Run 1 failed: StartupTimeout")
    eventually(lambda: not ground.pods(JOB), ground.pods_at_a_glance)
    ground.leaves_nothing(JOB)


def test_a_job_that_no_node_can_take_waits_with_the_scheduler_s_words_and_starts_when_one_can(ground: Ground) -> None:
    label = f"test/{ground.kubectl.namespace}"
    ground.start(JOB, **{"spec.podTemplate.nodeSelector": {label: "here"}})
    waiting = ground.until(JOB, lambda s: reason(s) == "Unschedulable")
    assert "that podTemplate.nodeSelector or podTemplate.affinity rules out" in message(waiting)
    assert "Unschedulable" in ground.kubectl.run("get", "ftj", JOB).stdout.splitlines()[1].split()
    ground.in_phase(JOB, "Pending", attempt=1)
    node = ready_nodes(ground.kubectl)[-1]
    ground.kubectl.run("label", "node", node, f"{label}=here")
    try:
        assert {pod["spec"]["nodeName"] for pod in ground.training(JOB)} == {node}
        assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
        ground.leaves_nothing(JOB)
    finally:
        ground.kubectl.run("label", "node", node, f"{label}-")


def test_a_node_selector_and_an_image_that_were_wrong_are_corrected_by_edits(ground: Ground) -> None:
    """Each edit takes effect at once, as an attempt that is not counted."""
    ground.start(JOB, **{"spec.image": "localhost/nobody-has-made-this:1", "spec.podTemplate.nodeSelector": {"a": "b"}})
    ground.until(JOB, lambda s: reason(s) == "Unschedulable")
    ground.edit(JOB, podTemplate={"nodeSelector": {"a": None}})
    waiting = ground.until(JOB, lambda s: reason(s) == "ImageNotPulled")
    assert waiting["run"]["attempt"] == 2
    ground.edit(JOB, image=TEST_IMAGE)
    ground.training(JOB, attempt=3)
    edited = ("Edited", False)
    assert classes(ground.completes(JOB, attempt=3)) == [edited, edited, ("Success", False)]
    ground.leaves_nothing(JOB)


@pytest.fixture
def memory(ground: Ground) -> Iterator[str]:
    """Limit the namespace's memory so that a job's pods fit only if they request less."""
    ground.kubectl.run("create", "quota", QUOTA, "--hard=limits.memory=300Mi")
    eventually(lambda: "hard" in ground.kubectl.get("quota", QUOTA)["status"])
    yield QUOTA
    ground.kubectl.run("delete", "quota", QUOTA, "--ignore-not-found")


def test_resources_above_a_quota_are_lowered_by_an_edit(ground: Ground, memory: str) -> None:
    ground.start(JOB)
    ground.until(JOB, lambda s: reason(s) == "PodsRefused")
    ground.edit(JOB, resources={"memory": "128Mi"})
    ground.training(JOB, attempt=2)
    assert classes(ground.completes(JOB, attempt=2)) == [("Edited", False), ("Success", False)]
    ground.kubectl.run("delete", "quota", memory)
    ground.leaves_nothing(JOB)


@pytest.fixture
def quota(ground: Ground) -> Iterator[str]:
    """Allow no pods in the namespace."""
    ground.kubectl.run("create", "quota", QUOTA, "--hard=pods=0")
    eventually(lambda: "hard" in ground.kubectl.get("quota", QUOTA)["status"])
    yield QUOTA
    ground.kubectl.run("delete", "quota", QUOTA, "--ignore-not-found")


def test_an_exhausted_quota_is_quoted_and_the_job_goes_on_when_it_is_raised(ground: Ground, quota: str) -> None:
    ground.start(JOB)
    waiting = ground.until(JOB, lambda s: "exceeded quota" in message(s))
    assert f"exceeded quota: {quota}" in message(waiting)
    ground.in_phase(JOB, "Pending", attempt=1)
    ground.kubectl.run("patch", "quota", quota, "--type=merge", "-p", '{"spec": {"hard": {"pods": "4"}}}')
    ground.training(JOB)
    assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
    ground.kubectl.run("delete", "quota", quota)
    ground.leaves_nothing(JOB)


@pytest.fixture
def limit(ground: Ground) -> Iterator[str]:
    """Limit containers of the namespace to less memory than a job's containers have."""
    limits = [{"type": "Container", "max": {"memory": "64Mi"}}]
    metadata = {"name": LIMIT}
    ground.kubectl.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}})
    yield LIMIT
    ground.kubectl.run("delete", "limitrange", LIMIT, "--ignore-not-found")


def test_a_limit_range_that_refuses_the_pods_is_quoted_and_the_job_goes_on_without_it(
    ground: Ground, limit: str
) -> None:
    ground.start(JOB)
    waiting = ground.until(JOB, lambda s: "is forbidden" in message(s))
    assert "maximum memory usage per Container is 64Mi, but limit is 256Mi" in message(waiting)
    ground.in_phase(JOB, "Pending", attempt=1)
    ground.kubectl.run("delete", "limitrange", limit)
    ground.training(JOB)
    assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
    ground.leaves_nothing(JOB)


def enforce(ground: Ground, standard: str) -> None:
    """Enforce a Pod Security Standard in the namespace."""
    (label,) = RESTRICTED
    ground.kubectl.run("label", "namespace", ground.kubectl.namespace, f"{label}={standard}", "--overwrite")


def test_a_pod_security_standard_that_refuses_the_pods_is_quoted_and_the_job_goes_on_under_a_lower_one(
    ground: Ground,
) -> None:
    ground.start(JOB, **{"spec.podTemplate.securityContext": {"runAsNonRoot": False}})
    waiting = ground.until(JOB, lambda s: "violates PodSecurity" in message(s))
    assert 'violates PodSecurity "restricted:latest": runAsNonRoot != true' in message(waiting)
    ground.in_phase(JOB, "Pending", attempt=1)
    enforce(ground, "baseline")
    try:
        ground.training(JOB)
        assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
        ground.leaves_nothing(JOB)
    finally:
        enforce(ground, "restricted")


def test_of_two_jobs_that_fill_the_cluster_the_second_waits_for_the_first(
    ground: Ground, all_slots: dict[str, Any]
) -> None:
    ground.start("first", **{"spec.resources": all_slots})
    ground.training("first")
    ground.start("second", **{"spec.resources": all_slots})
    waiting = ground.until("second", lambda s: reason(s) == "Unschedulable")
    assert f"without enough free {all_slots['gpuResource']}" in message(waiting)
    assert classes(ground.completes("first", attempt=1)) == [("Success", False)]
    ground.training("second")
    assert classes(ground.completes("second", attempt=1)) == [("Success", False)]
    ground.leaves_nothing("first", "second")
