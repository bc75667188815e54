"""Tests of a node that loses its power: the job continues without it, and its return changes nothing.

The commands in FINETUNE_STOP_NODE and FINETUNE_START_NODE stop and start the node; the node's name is appended to both.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from cluster.faults import Ground, classes, eventually

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"
VARIABLES = ("FINETUNE_STOP_NODE", "FINETUNE_START_NODE")
TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class Power:
    """The power of the cluster's nodes."""

    def __init__(self) -> None:
        self.cut: set[str] = set()

    def stop(self, node: str) -> None:
        self.cut.add(node)
        self._run("FINETUNE_STOP_NODE", node)

    def start(self, node: str) -> None:
        self._run("FINETUNE_START_NODE", node)
        self.cut.discard(node)

    @staticmethod
    def _run(variable: str, node: str) -> None:
        subprocess.run([*shlex.split(os.environ[variable]), node], check=True, stdout=subprocess.DEVNULL, timeout=120)


@pytest.fixture
def power(ground: Ground) -> Iterator[Power]:
    """Provide the power of the nodes; at the end every node is powered and Ready."""
    if missing := [variable for variable in VARIABLES if not os.environ.get(variable)]:
        pytest.skip(f"needs the commands that stop and start a node: set {' and '.join(missing)}")
    power = Power()
    yield power
    for node in tuple(power.cut):
        power.start(node)
    ground.kubectl.run("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")


def test_a_job_goes_on_without_a_node_that_lost_its_power_and_its_return_changes_nothing(
    ground: Ground, power: Power
) -> None:
    soon = [{"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1} for taint in TAINTS]
    ground.start(JOB, **{"spec.podTemplate.tolerations": soon})
    pods = ground.training(JOB)
    node = max(pod["spec"]["nodeName"] for pod in pods)
    (dead,) = (pod for pod in pods if pod["spec"]["nodeName"] == node)
    power.stop(node)
    ground.in_phase(JOB, "Training", attempt=2, seconds=120)
    following = ground.pods(JOB, attempt=2)
    assert node not in {pod["spec"]["nodeName"] for pod in following}
    assert dead["metadata"]["name"] in {pod["metadata"]["name"] for pod in ground.pods(JOB, attempt=1)}, (
        "nobody has waited for the pod, which stays as long as its node is away"
    )
    ground.order(JOB, "finish")
    before = ground.in_phase(JOB, "Complete", attempt=2)
    assert classes(before) == [("Preempted", False), ("Success", False)]
    entry = before["ledger"][0]
    assert (entry["pod"], entry["node"], entry.get("exitCode")) == (dead["metadata"]["name"], node, None)
    assert "DeletionByTaintManager" in entry["message"]

    power.start(node)
    eventually(lambda: not ground.pods(JOB, attempt=1), ground.pods_at_a_glance, 90)
    after = ground.completes(JOB, attempt=2)
    assert after == before
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)


def test_the_node_without_power_is_blamed_and_not_that_of_the_rank_that_noticed(ground: Ground, power: Power) -> None:
    """The surviving rank reports the failure long before the cluster stops waiting for the node."""
    ground.start(JOB)
    pods = ground.training(JOB)
    dead, survivor = pods
    power.stop(dead["spec"]["nodeName"])
    ground.order(JOB, "miss-rank-0")
    failed = ground.until(JOB, lambda s: s.get("ledger"))
    entry = failed["ledger"][0]
    assert (entry["class"], entry["counted"]) == ("Hung", True)
    assert (entry["pod"], entry["node"]) == (dead["metadata"]["name"], dead["spec"]["nodeName"])
    assert entry["slowestRank"] == 0
    assert survivor["spec"]["nodeName"] != entry["node"]
