"""Tests that each deadline of a job frees its pods, and reports which pod delayed it and why.

The shortest deadline is a minute, so all jobs of this module wait at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cluster.faults import Ground, classes, eventually, ready_nodes, reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS = 150.0
"""Seconds until a deadline of one minute has passed and has taken effect."""
NO_NODE = "no-node"
GANGS = ("gang-a", "gang-b")


@pytest.fixture(scope="module")
def ground(shared_ground: Ground, all_slots: dict[str, Any]) -> Iterator[Ground]:
    """Provide the namespace with three jobs that cannot start.

    Each of the last two holds a node that the other needs.
    """
    kubectl = shared_ground.kubectl
    label = f"{kubectl.namespace}.test/only"
    nodes = ready_nodes(kubectl)
    once = {"maxRestarts": 0}
    shared_ground.start(
        NO_NODE,
        **{
            "spec.podTemplate.nodeSelector": {label: "nowhere"},
            "spec.faultTolerance": {**once, "queueMinutes": 1},
        },
    )
    try:
        for job, node in zip(GANGS, nodes, strict=False):
            kubectl.run("label", "node", node, f"{label}-{job}=here")
            shared_ground.start(
                job,
                "finish",
                **{
                    "spec.resources": all_slots,
                    "spec.podTemplate.nodeSelector": {f"{label}-{job}": "here"},
                    "spec.faultTolerance": {**once, "gangMinutes": 1},
                },
            )
        for job in GANGS:
            shared_ground.until(job, lambda s: s.get("phase") == "Starting" and reason(s) == "Unschedulable")
        for job in GANGS:
            kubectl.run("label", "nodes", *nodes, f"{label}-{job}=here", "--overwrite")
        yield shared_ground
    finally:
        kubectl.run("label", "nodes", *nodes, *(f"{label}-{job}-" for job in GANGS))
    shared_ground.clear()


def test_queue_minutes_end_a_job_that_no_node_can_take(ground: Ground) -> None:
    failed = ground.in_phase(NO_NODE, "Failed", seconds=SECONDS)
    (entry,) = failed["ledger"]
    assert (entry["class"], entry["counted"]) == ("DeadlineExceeded", False)
    assert "no pod had a node within 1 minutes: pod " in entry["message"]
    assert "didn't match Pod's node affinity/selector" in entry["message"]
    eventually(lambda: not ground.pods(NO_NODE), ground.pods_at_a_glance)


def test_gang_minutes_let_two_jobs_finish_that_each_hold_a_node_of_the_other(ground: Ground) -> None:
    ends = [ground.in_phase(job, "Complete", seconds=300) for job in GANGS]
    every = {entry for status in ends for entry in classes(status)}
    assert every == {("GangTimeout", False), ("Success", False)}
    for job, status in zip(GANGS, ends, strict=True):
        assert len(ground.made_pods(job)) == 2 * status["run"]["attempt"]
        assert ground.completes(job, status["run"]["attempt"]) == status


def test_nothing_is_left_of_any_of_them(ground: Ground) -> None:
    ground.leaves_nothing(NO_NODE, *GANGS)
