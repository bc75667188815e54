"""Tests real trainers on two nodes: after each fault the training continues from its checkpoint to the same model.

One job has all faults, one after the other, and its model must have the same bytes as that of an undisturbed job.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.disturbed import Disturbed, prepare
from cluster.test_training import assert_nothing_left
from support.kubectl import Kubectl

pytestmark = pytest.mark.timeout(1200)
STEPS_OF_A_FAULT = 400
"""Steps per fault: enough that an attempt has a checkpoint before its fault, even on a fast machine."""
Fault = tuple[Callable[[Disturbed, int], None], str, bool]
TWO: tuple[Fault, ...] = ((Disturbed.kill_rank, "Infrastructure", True), (Disturbed.terminate_one, "Preempted", False))
FIVE: tuple[Fault, ...] = (
    *TWO,
    (Disturbed.kill_pod, "Infrastructure", True),
    (Disturbed.terminate_all, "Preempted", False),
    (Disturbed.truncate_newest, "Infrastructure", True),
)


@pytest.mark.parametrize("faults", [TWO, pytest.param(FIVE, marks=pytest.mark.slow)], ids=["two-faults", "five-faults"])
def test_a_training_that_is_killed_and_stopped_ends_with_the_same_model(
    kubectl: Kubectl, workspace: Path, operator: subprocess.Popen[bytes], faults: tuple[Fault, ...]
) -> None:
    steps = STEPS_OF_A_FAULT * len(faults)
    prepare(workspace)
    whole = Disturbed(kubectl, workspace, "undisturbed")
    whole.start(steps)
    expected = whole.complete()
    job = Disturbed(kubectl, workspace, "disturbed")
    job.start(steps)
    victim = ""
    for attempt, (fault, _, _) in enumerate(faults, 1):
        job.trained(attempt, steps=80)
        victim = victim or job.pods(attempt)[1]
        fault(job, attempt)
        job.until(lambda s, after=attempt: s["run"]["attempt"] > after)
    complete = job.complete()
    *failed, succeeded = complete["ledger"]
    assert [(entry["class"], entry["counted"]) for entry in failed] == [
        (class_, counted) for _, class_, counted in faults
    ]
    killed = failed[0]
    assert (killed["exitCode"], killed["pod"], killed["rank"]) == (137, victim, 1)
    assert killed["message"] == "Rank 1 was killed by signal 9 (SIGKILL)."
    assert (succeeded["class"], succeeded["attempt"]) == ("Success", len(faults) + 1)
    saved = [entry["checkpointStep"] for entry in failed]
    assert saved == sorted(saved), "every attempt went on from where the one before had saved"
    assert saved[0] > 0
    for entry in (entry for entry in failed if entry["class"] == "Preempted"):
        assert entry["exitCode"] == 75
        assert entry["checkpointStep"] == entry["step"], "pods that were stopped have saved their last step"
    assert [record["step"] for record in job.records()] == list(range(1, steps + 1)), "no step is missing, or twice"
    assert [record["loss"] for record in job.records()] == [record["loss"] for record in whole.records()]
    assert complete["evaluation"] == expected["evaluation"]
    assert complete["result"]["digest"] == expected["result"]["digest"]
    kubectl.run("delete", "ftj", "--all")
    for one in (whole, job):
        assert_nothing_left(kubectl, one.name)
