"""Tests that the loss of a pod ends the attempt, the next attempt continues, and the ledger has the cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster.faults import Ground, classes

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"
STOPPED = (75, None)
"""The possible exit codes of a deleted pod: the agent's code, or none if the pod's end was not awaited."""


def lost(status: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Return the ledger entry of the first attempt, which must name the pod and its node."""
    entry: dict[str, Any] = status["ledger"][0]
    assert (entry["pod"], entry["node"]) == (pod["metadata"]["name"], pod["spec"]["nodeName"])
    assert entry["step"] == 1
    assert entry["startTime"] <= entry["endTime"]
    return entry


def goes_on_in_attempt_2(ground: Ground, lost: list[dict[str, Any]]) -> dict[str, Any]:
    """Check that attempt 2 trains with new pods, completes, and leaves nothing."""
    pods = ground.training(JOB, attempt=2)
    assert {p["metadata"]["uid"] for p in pods}.isdisjoint(p["metadata"]["uid"] for p in lost)
    complete = ground.completes(JOB, attempt=2)
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)
    return complete


def test_a_rank_killed_by_sigkill_is_counted_as_a_failure_of_the_infrastructure(ground: Ground) -> None:
    ground.start(JOB)
    pods = ground.training(JOB)
    ground.kubectl.run("exec", pods[1]["metadata"]["name"], "--", "sh", "-c", "kill -9 $(cat /scratch/rank-1.pid)")
    complete = goes_on_in_attempt_2(ground, pods)
    assert classes(complete) == [("Infrastructure", True), ("Success", False)]
    entry = lost(complete, pods[1])
    assert (entry["exitCode"], entry["rank"]) == (137, 1)
    assert entry["message"] == "Rank 1 was killed by signal 9 (SIGKILL)."


def test_a_deleted_pod_is_a_preemption_and_not_counted(ground: Ground) -> None:
    ground.start(JOB)
    pods = ground.training(JOB)
    ground.kubectl.run("delete", "pod", pods[1]["metadata"]["name"], "--wait=false")
    complete = goes_on_in_attempt_2(ground, pods)
    assert classes(complete) == [("Preempted", False), ("Success", False)]
    entry = lost(complete, pods[1])
    assert "was taken away: deleted" in entry["message"]
    assert entry.get("exitCode") in STOPPED


def test_an_evicted_pod_is_a_preemption_and_not_counted(ground: Ground) -> None:
    ground.start(JOB)
    pods = ground.training(JOB)
    name = pods[0]["metadata"]["name"]
    ground.kubectl.evict(name)
    complete = goes_on_in_attempt_2(ground, pods)
    assert classes(complete) == [("Preempted", False), ("Success", False)]
    entry = lost(complete, pods[0])
    assert "EvictionByEvictionAPI" in entry["message"]
    assert entry.get("exitCode") in STOPPED


OFFER_THE_AGENT = """
import pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if b"finetune_trainer.agent" in (process / "cmdline").read_bytes():
            (process / "oom_score_adj").write_text("1000")
    except OSError:
        pass  # it has ended
"""
"""A program after which the kernel kills the container's first process, not the largest, when memory runs out."""


def goes_on_with_half_the_rows(ground: Ground) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check that attempt 2 trains with half the rows.

    Return the ledger entry of the first attempt, and the terminated state of the container of the pod that it names.
    """
    ground.training(JOB, attempt=2)
    configurations = ground.kubectl.get("configmaps", "-l", f"finetune.dev/job={JOB}")
    rows = [json.loads(c["data"]["run.json"])["training"]["microBatchSize"] for c in configurations]
    assert sorted(rows) == [4, 8]
    failed = {pod["metadata"]["name"]: pod for pod in ground.pods(JOB, attempt=1)}
    complete = goes_on_in_attempt_2(ground, list(failed.values()))
    assert classes(complete) == [("OutOfMemory", False), ("Success", False)]
    entry = complete["ledger"][0]
    (container,) = failed[entry["pod"]]["status"]["containerStatuses"]
    assert entry["pod"].split("-")[-2] == "0", "that of the rank that took it"
    assert entry["exitCode"] == container["state"]["terminated"]["exitCode"]
    assert "the next attempt takes 4 instead of 8 rows in a forward pass" in entry["message"]
    return entry, container["state"]["terminated"]


def assert_killed_as_a_whole(entry: dict[str, Any], terminated: dict[str, Any]) -> None:
    """Check an entry whose container left no termination message, so that only the pod's status has the cause."""
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")
    assert "message" not in terminated
    assert "rank" not in entry
    assert f"pod {entry['pod']} was ended because it took more memory than resources.memory" in entry["message"]


def test_a_rank_out_of_memory_is_tried_again_with_half_the_rows_in_a_forward_pass(ground: Ground) -> None:
    """If the kernel kills the whole container (cgroup v2, the kubelet's default), the agent is killed too."""
    ground.start(JOB, "take-memory-1", **{"spec.training.globalBatchSize": 32})
    entry, terminated = goes_on_with_half_the_rows(ground)
    if terminated["exitCode"] == 137:
        assert_killed_as_a_whole(entry, terminated)
    else:
        assert (entry["exitCode"], entry["rank"]) == (78, 0)
        assert "Rank 0 was killed because the pod ran out of memory; raise resources.memory" in entry["message"]


def test_a_container_killed_for_memory_without_a_word_is_tried_again_with_half_the_rows(ground: Ground) -> None:
    ground.start(JOB, **{"spec.training.globalBatchSize": 32})
    (first, _) = ground.training(JOB)
    ground.kubectl.run("exec", "-i", first["metadata"]["name"], "--", "python3", "-", stdin=OFFER_THE_AGENT)
    ground.order(JOB, "take-memory-1")
    assert_killed_as_a_whole(*goes_on_with_half_the_rows(ground))
