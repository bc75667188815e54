"""The time limits of an attempt: for nodes, for the start of its ranks and for its active time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FaultTolerance, RunStatus
from finetune_operator.core.attempt.deadline import Late, Wait, active_seconds, overdue
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import FailureClass

TOLERANCE = FaultTolerance(queue_minutes=30, gang_minutes=5, startup_minutes=20, active_minutes=60)


def run(**changes: Any) -> RunStatus:
    resources = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}, "metadata.uid": "0b5e7d2a"}
    return next_run(parse(manifest(**resources)), 1, Settings(image="i"), "n", NOW).model_copy(update=changes)


def pod(index: int, since: float | None, **facts: Any) -> PodView:
    """Return a pod that was scheduled `since` minutes after the attempt began, or not yet if `since` is None."""
    at = None if since is None else NOW + timedelta(minutes=since)
    node = None if since is None else f"node-{index}"
    return PodView(
        uid=f"u{index}", name=f"p-{index}", index=index, owner_uid="j", node=node, scheduled=since is not None,
        scheduled_at=at, **facts,
    )  # fmt: skip


def after(minutes: float, *pods: PodView, reported: bool = False, of: RunStatus | None = None, **given: Any) -> Any:
    tolerance = given.get("tolerance", TOLERANCE)
    now = NOW + timedelta(minutes=minutes)
    created = NOW + timedelta(minutes=given.get("created", 0))
    attested = given.get("attested", ())
    return overdue(of or run(), tolerance, pods, reported, given.get("refused"), now, created, attested)


def test_a_run_waits_for_its_first_node_for_ever_unless_a_time_is_set() -> None:
    waiting = pod(0, None, waiting="0/3 nodes are available")
    assert after(10_000, waiting, tolerance=FaultTolerance()) == Wait(None)
    assert after(29, waiting) == Wait(60)
    late = after(30, waiting)
    assert isinstance(late, Late)
    assert late.failure is FailureClass.DEADLINE
    assert "p-0: 0/3 nodes are available" in late.message


def test_a_part_of_a_gang_gives_way() -> None:
    pods = (pod(0, 100), pod(1, None, waiting="no room"))
    assert after(104, *pods) == Wait(60)
    late = after(105, *pods)
    assert (late.failure, "1 of 2 pods" in late.message, "p-1: no room" in late.message) == (
        FailureClass.GANG_TIMEOUT, True, True,
    )  # fmt: skip


def test_pods_that_are_refused_hold_a_gang_up_too() -> None:
    late = after(6, pod(0, 0), refused="exceeded quota: gpus")
    assert (late.failure, "exceeded quota: gpus" in late.message) == (FailureClass.GANG_TIMEOUT, True)


def test_the_start_counts_from_the_last_pod_s_node_and_names_who_holds_it_up() -> None:
    pods = (pod(0, 0, running=True), pod(1, 4, waiting="ErrImagePull: no such image"))
    assert after(23, *pods) == Wait(60)
    late = after(24, *pods)
    assert (late.failure, late.pod, late.node) == (FailureClass.STARTUP_TIMEOUT, "p-1", "node-1")
    assert "ErrImagePull: no such image" in late.message


def test_once_all_have_reported_only_the_active_time_runs() -> None:
    pods = (pod(0, 0, running=True), pod(1, 0, running=True))
    assert after(59, *pods, reported=True) == Wait(60)
    late = after(60, *pods, reported=True)
    assert (late.failure, "activeMinutes" in late.message) == (FailureClass.DEADLINE, True)


def test_earlier_attempts_count_into_the_active_time() -> None:
    pods = (pod(0, 0, running=True), pod(1, 0, running=True))
    assert isinstance(after(31, *pods, reported=True, of=run(active_seconds=1800)), Late)
    assert active_seconds(run(), pods, NOW + timedelta(minutes=3)) == 180
    assert active_seconds(run(), pods[:1], NOW + timedelta(minutes=3)) == 0


def test_the_queue_is_counted_from_the_attempt_s_job_and_not_while_it_is_suspended_or_delayed() -> None:
    assert after(101, pod(0, None), created=100) == Wait(29 * 60)
    assert isinstance(after(130, pod(0, None), created=100), Late)


def test_a_pod_whose_ranks_are_silent_is_named_though_all_run() -> None:
    pods = (pod(0, 0, running=True), pod(1, 0, running=True))
    late = after(20, *pods, attested=("u0",))
    assert (late.failure, late.pod, late.node) == (FailureClass.STARTUP_TIMEOUT, "p-1", "node-1")
    assert "p-1 on node node-1: its ranks have not reported" in late.message
    assert after(20, *pods).pod == "p-0"
