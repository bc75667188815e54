"""Real trainers on two nodes: after each fault the training goes on from its checkpoint, and the model is the same.

One job takes all of them, one after the other, and must end with the bytes of a job that nobody disturbed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.disturbed import Disturbed, prepare
from support.kubectl import Kubectl

pytestmark = pytest.mark.timeout(1200)
STEPS = 2000
FAULTS: tuple[tuple[Callable[[Disturbed, int], None], str, bool], ...] = (
    (Disturbed.kill_rank, "Infrastructure", True),
    (Disturbed.kill_pod, "Infrastructure", True),
    (Disturbed.terminate_one, "Preempted", False),
    (Disturbed.terminate_all, "Preempted", False),
    (Disturbed.truncate_newest, "Infrastructure", True),
)


def test_a_training_that_is_killed_stopped_and_robbed_of_a_checkpoint_ends_with_the_same_model(
    kubectl: Kubectl, workspace: Path, operator: subprocess.Popen[bytes]
) -> None:
    prepare(workspace)
    whole = Disturbed(kubectl, workspace, "undisturbed")
    whole.start(STEPS)
    expected = whole.complete()
    job = Disturbed(kubectl, workspace, "disturbed")
    job.start(STEPS)
    for attempt, (fault, _, _) in enumerate(FAULTS, 1):
        job.trained(attempt, steps=80)
        fault(job, attempt)
        job.until(lambda s, after=attempt: s["run"]["attempt"] > after)
    complete = job.complete()
    *failed, _ = complete["ledger"]
    assert [(entry["class"], entry["counted"]) for entry in failed] == [
        (class_, counted) for _, class_, counted in FAULTS
    ]
    saved = [entry["checkpointStep"] for entry in failed]
    assert saved == sorted(saved), "every attempt went on from where the one before had saved"
    assert saved[0] > 0
    for entry in failed[2:4]:
        assert entry["exitCode"] == 75
        assert entry["checkpointStep"] == entry["step"], "pods that were stopped have saved their last step"
    assert [record["step"] for record in job.records()] == list(range(1, STEPS + 1)), "no step is missing, or twice"
    assert [record["loss"] for record in job.records()] == [record["loss"] for record in whole.records()]
    assert complete["evaluation"] == expected["evaluation"]
    assert complete["result"]["digest"] == expected["result"]["digest"]
