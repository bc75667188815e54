"""Tests of an operator that is killed, has a second instance, loses a namespace, or meets jobs that reuse a name."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import new_namespace, new_workspace
from cluster.faults import ONE_NODE, Ground, classes, eventually, ground_in, operating

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"
ONE_NODE_EACH = {"spec.resources": ONE_NODE}


def test_an_operator_killed_during_the_start_and_the_training_goes_on_with_the_same_attempt(ground: Ground) -> None:
    ground.start(JOB, "hold")
    ground.until(JOB, lambda s: s.get("phase") == "Starting")
    ground.operator.kill()
    first = {pod["metadata"]["uid"] for pod in ground.pods(JOB)}
    ground.countermand(JOB, "hold")
    ground.operator.start()
    assert {pod["metadata"]["uid"] for pod in ground.training(JOB)} == first
    ground.operator.kill()
    ground.order(JOB, "finish")
    eventually(lambda: {pod["status"]["phase"] for pod in ground.pods(JOB)} == {"Succeeded"}, ground.pods_at_a_glance)
    assert ground.status(JOB)["phase"] == "Training", "nobody was there to see the end"
    ground.operator.start()
    assert classes(ground.completes(JOB, attempt=1)) == [("Success", False)]
    assert len(ground.made_pods(JOB)) == 2
    ground.leaves_nothing(JOB)


def test_an_operator_killed_while_pods_are_taken_away_counts_nothing_and_takes_them_all(ground: Ground) -> None:
    ground.start(JOB, "linger")
    ground.training(JOB)
    ground.edit(JOB, suspend=True)
    ground.in_phase(JOB, "Suspending")
    ground.operator.kill()
    ground.operator.start()
    ground.in_phase(JOB, "Suspending")
    ground.operator.kill()
    ground.countermand(JOB, "linger")
    eventually(lambda: not ground.pods(JOB), ground.pods_at_a_glance)
    ground.operator.start()
    suspended = ground.in_phase(JOB, "Suspended")
    assert classes(suspended) == [("Suspended", False)]
    ground.edit(JOB, suspend=False)
    ground.training(JOB, attempt=2)
    assert ground.status(JOB)["ledger"] == suspended["ledger"]
    assert len(ground.made_pods(JOB)) == 4
    ground.operator.kill()
    ground.leaves_nothing(JOB)
    ground.operator.start()


@pytest.mark.parametrize("order", ["drain", "delete"])
def test_a_pod_taken_away_while_no_operator_ran_is_not_counted_though_all_pods_are_gone(
    ground: Ground, order: str
) -> None:
    """The Job's condition contains the exit code of the first pod that was stopped."""
    ground.start(JOB, **{"spec.faultTolerance": {"maxRestarts": 0}})
    name = ground.training(JOB)[1]["metadata"]["name"]
    ground.operator.kill()
    if order == "drain":
        ground.kubectl.evict(name)
    else:
        ground.kubectl.run("delete", "pod", name)
    eventually(lambda: not ground.pods(JOB), ground.pods_at_a_glance)
    ground.operator.start()
    ground.training(JOB, attempt=2)
    complete = ground.completes(JOB, attempt=2)
    assert classes(complete) == [("Preempted", False), ("Success", False)]
    assert (complete["ledger"][0]["pod"], complete["ledger"][0]["exitCode"]) == (name, 75)
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)


def test_a_result_whose_pod_vanished_while_no_operator_ran_is_found_in_the_workspace(ground: Ground) -> None:
    ground.start(JOB)
    first = ground.training(JOB)[0]["metadata"]["name"]
    ground.operator.kill()
    ground.order(JOB, "finish")
    eventually(lambda: {pod["status"]["phase"] for pod in ground.pods(JOB)} == {"Succeeded"}, ground.pods_at_a_glance)
    ground.kubectl.run("delete", "pod", first)
    ground.operator.start()
    complete = ground.in_phase(JOB, "Complete", attempt=1)
    assert classes(complete) == [("Success", False)]
    assert complete["result"]["digest"] == "0" * 64
    made = ground.made_pods(JOB)
    assert (len(made), sum("-look-" in name for name in made)) == (3, 1)
    ground.leaves_nothing(JOB)


def test_of_two_operators_one_leads_and_the_other_goes_on_when_it_is_killed(ground: Ground, tmp_path: Path) -> None:
    with operating([ground.kubectl.namespace], tmp_path, leads=False) as second:
        ground.start(JOB)
        pods = ground.training(JOB)
        assert (ground.operator.leads(), second.leads()) == (True, False)
        ground.operator.kill()
        eventually(second.leads, second.log)
        ground.operator.start(leads=False)
        assert (ground.operator.leads(), second.leads()) == (False, True)
        ground.kubectl.run("delete", "pod", pods[1]["metadata"]["name"], "--wait=false")
        ground.training(JOB, attempt=2)
        complete = ground.completes(JOB, attempt=2)
        assert classes(complete) == [("Preempted", False), ("Success", False)]
        assert len(ground.made_pods(JOB)) == 4
        ground.leaves_nothing(JOB)
    eventually(ground.operator.leads, ground.operator.log)


def test_an_operator_survives_the_loss_of_a_namespace_and_its_other_jobs_go_on(crd: None, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gone, kept = (stack.enter_context(new_namespace()) for _ in range(2))
        operator = stack.enter_context(operating([kept.namespace, gone.namespace], tmp_path))
        doomed, ground = (
            ground_in(kubectl, stack.enter_context(new_workspace(kubectl)), operator) for kubectl in (gone, kept)
        )
        for each in (doomed, ground):
            each.start(JOB, **ONE_NODE_EACH)
        for each in (doomed, ground):
            each.training(JOB)
        gone.run("delete", "namespace", gone.namespace, "--timeout=90s")
        (pod,) = ground.pods(JOB)
        ground.kubectl.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
        ground.training(JOB, attempt=2)
        ground.start("another", **ONE_NODE_EACH)
        ground.training("another")
        assert classes(ground.completes(JOB, attempt=2)) == [("Preempted", False), ("Success", False)]
        assert classes(ground.completes("another", attempt=1)) == [("Success", False)]
        ground.leaves_nothing(JOB, "another")


CHILDREN = "networkpolicies,configmaps,services,jobs,pods"
ORPHANED = ""
"""The owner of a child that has none any more."""
WAYS = {"background": "ConfigMap", "foreground": "Job", "orphan": "Pod"}
"""The ways to delete a job, each with the child that must exist before; an attempt's pod is created last."""


def children(ground: Ground) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ground.kubectl.get(CHILDREN, "-l", f"finetune.dev/job={JOB}")
    return found


def owner_of(child: dict[str, Any]) -> str:
    return next((str(owner["uid"]) for owner in child["metadata"].get("ownerReferences", [])), ORPHANED)


def families(ground: Ground) -> dict[str, dict[str, str]]:
    """Return the kind of each child by its UID, for each FineTuneJob by UID.

    A pod belongs to the owner of its Job.
    """
    kinds = {child["metadata"]["uid"]: (child["kind"], owner_of(child)) for child in children(ground)}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for uid, (kind, owner) in kinds.items():
        _, owner_of_owner = kinds.get(owner, (None, owner))
        found[owner_of_owner][uid] = kind
    return found


def family_with(ground: Ground, uid: str, kind: str) -> dict[str, str]:
    """Return the children of a FineTuneJob, or an empty result until it has a child of this kind."""
    found = families(ground).get(uid, {})
    return found if kind in found.values() else {}


def remove_orphans(ground: Ground) -> None:
    """Delete the children without an owner, with their pods."""
    if orphans := [f"{c['kind']}/{c['metadata']['name']}" for c in children(ground) if owner_of(c) == ORPHANED]:
        ground.kubectl.run("delete", *orphans, "--timeout=60s")


def test_a_job_made_again_and_again_under_its_name_never_has_children_of_a_former_one(ground: Ground) -> None:
    """Children of a job deleted with `--cascade=orphan` continue to train, and no later job adopts them."""
    many = {"spec.resources": {**ONE_NODE, "cpu": "200m"}}  # leaves room for pods that are still being deleted
    uids: list[str] = []
    orphans: dict[str, str] = {}
    try:
        for way, kind in islice(cycle(WAYS.items()), 20):
            ground.start(JOB, **many)
            uids.append(ground.kubectl.get("ftj", JOB)["metadata"]["uid"])
            ours = eventually(partial(family_with, ground, uids[-1], kind), ground.pods_at_a_glance)
            ground.kubectl.run("delete", "ftj", JOB, f"--cascade={way}", "--timeout=90s")
            orphans |= ours if way == "orphan" else {}
        ground.start(JOB, **many)
        uids.append(ground.kubectl.get("ftj", JOB)["metadata"]["uid"])
        ground.in_phase(JOB, "Training", attempt=1)
        eventually(lambda: set(families(ground)) == {ORPHANED, uids[-1]}, lambda: families(ground))
        assert families(ground)[ORPHANED] == orphans
        eventually(lambda: {pod["status"]["phase"] for pod in ground.pods(JOB)} == {"Running"}, ground.pods_at_a_glance)
    finally:
        remove_orphans(ground)
    eventually(lambda: set(families(ground)) == {uids[-1]}, lambda: families(ground))
    complete = ground.completes(JOB, attempt=1)
    assert classes(complete) == [("Success", False)]
    assert complete["result"]["path"].endswith(f"runs/1-{uids[-1].replace('-', '')[:8]}/output")
    assert len(set(uids)) == 21
    ground.leaves_nothing(JOB)
