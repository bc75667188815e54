"""Tests that a job suspended by its owner or by a queue frees its nodes, and continues in another attempt."""

from __future__ import annotations

import pytest
from cluster.faults import Ground, classes, eventually, message, true_conditions

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"


def test_a_suspended_job_says_so_when_its_last_pod_has_ended_and_goes_on_uncounted(ground: Ground) -> None:
    ground.start(JOB, "linger")
    ground.training(JOB)
    ground.edit(JOB, suspend=True)
    stopping = ground.in_phase(JOB, "Suspending")
    assert "2 of its pods are still there" in message(stopping)
    assert len(ground.pods(JOB)) == 2
    ground.countermand(JOB, "linger")
    suspended = ground.in_phase(JOB, "Suspended")
    assert {pod["status"]["phase"] for pod in ground.pods(JOB)} <= {"Failed"}, "on their way out they hold nothing"
    assert "WorldReady" not in true_conditions(suspended)
    assert "spec.suspend is true; attempt 2 of run 1 starts when it is false" in message(suspended)
    (entry,) = suspended["ledger"]
    assert (entry["class"], entry["counted"], entry["step"]) == ("Suspended", False, 1)
    eventually(lambda: not ground.kubectl.get("jobs,pods", "-l", f"finetune.dev/job={JOB}"), ground.pods_at_a_glance)

    ground.edit(JOB, suspend=False)
    ground.training(JOB, attempt=2)
    complete = ground.completes(JOB, attempt=2)
    assert classes(complete) == [("Suspended", False), ("Success", False)]
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)


def test_a_job_whose_child_somebody_suspends_starts_another_attempt_uncounted(ground: Ground) -> None:
    ground.start(JOB)
    ground.training(JOB)
    (child,) = ground.kubectl.get("jobs", "-l", f"finetune.dev/job={JOB}")
    ground.kubectl.run("patch", "job", child["metadata"]["name"], "--type=merge", "-p", '{"spec": {"suspend": true}}')
    ground.training(JOB, attempt=2)
    complete = ground.completes(JOB, attempt=2)
    assert classes(complete) == [("Suspended", False), ("Success", False)]
    assert "suspended by someone else" in complete["ledger"][0]["message"]
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)
