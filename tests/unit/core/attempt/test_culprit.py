"""The node that the ledger names when the pod that failed first left no message: evidence of lost nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW

from finetune_operator.core.attempt.cause import cause_of, seconds_to_wait
from finetune_operator.core.observed.views import JobView, PodView
from finetune_trainer.contract import FailureClass, TerminationMessage

SILENT = (
    "Nothing has moved for 30 s in phase train after 12 steps: rank 0 does not even say that it lives."
)  # fmt: skip
NO_STORE = "Rank 0's pod does not answer any more (DistNetworkError)."
GONE = "The process of another rank is gone; the log has what the collective said."
JOB = JobView("j", "o", NOW, NOW + timedelta(seconds=60), "has failed", frozenset(), 3, False)


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def survivor(index: int, exit_code: int, error: str, error_at: float | None = None, **word: Any) -> PodView:
    message = TerminationMessage(
        pod_uid=f"u{index}", index=index, attempt=1, nonce="n", exit_code=exit_code, failing_rank=index, error=error,
        error_time=None if error_at is None else at(error_at).timestamp(), step=12, **word,
    )  # fmt: skip
    return PodView(
        uid=f"u{index}", name=f"pod-{index}", index=index, owner_uid="j", node=f"n{index}", phase="Failed",
        exit_code=exit_code, message=message, ended=at(58),
    )  # fmt: skip


def running(index: int, **facts: Any) -> PodView:
    return PodView(
        uid=f"u{index}", name=f"pod-{index}", index=index, owner_uid="j", node=f"n{index}", phase="Running",
        scheduled=True, running=True, **facts,
    )  # fmt: skip


NO_POWER = running(0)
"""The pod seems to run, because no kubelet reports its end."""


def test_the_silent_rank_of_which_the_survivors_speak_names_the_node() -> None:
    cause = cause_of(JOB, [NO_POWER, survivor(1, 79, SILENT, 57, slowest_rank=0)])
    assert (cause.failure, cause.rank, cause.pod, cause.node) == (FailureClass.HUNG, 0, "pod-0", "n0")
    assert cause.message == f"{SILENT.removesuffix('.')}; pod pod-0 on node n0 has left no word"


def test_a_rank_belongs_to_the_pod_that_runs_it() -> None:
    pods = [survivor(0, 79, SILENT, 57, slowest_rank=9), running(1), running(2)]
    assert cause_of(JOB, pods, ranks_per_pod=8).pod == "pod-1"
    assert cause_of(JOB, pods, ranks_per_pod=4).pod == "pod-2"


def test_a_rank_that_hangs_in_a_pod_that_lives_names_its_node_though_another_pod_spoke_first() -> None:
    pods = [survivor(0, 79, SILENT, 57, slowest_rank=1), survivor(1, 79, SILENT, 58, slowest_rank=1)]
    cause = cause_of(JOB, pods)
    assert (cause.node, cause.rank, cause.message) == ("n1", 1, SILENT)


def test_of_a_rank_whose_pod_is_not_known_no_node_is_named() -> None:
    assert cause_of(JOB, [survivor(1, 79, SILENT, 57, slowest_rank=0)]).node is None


def test_the_store_that_was_lost_names_the_node_of_rank_0_among_several_that_say_nothing() -> None:
    cause = cause_of(JOB, [NO_POWER, survivor(1, 1, NO_STORE, slowest_rank=0), running(2)])
    assert (cause.failure, cause.node) == (FailureClass.INFRASTRUCTURE, "n0")


def test_a_connection_that_was_closed_names_the_only_pod_without_a_word() -> None:
    cause = cause_of(JOB, [NO_POWER, survivor(1, 1, GONE), survivor(2, 1, GONE)])
    assert (cause.pod, cause.node, cause.rank) == ("pod-0", "n0", None)


def test_among_several_without_a_word_the_one_on_a_lost_node_is_named_and_else_none() -> None:
    pods = [survivor(0, 1, GONE), running(1), running(2)]
    assert cause_of(JOB, pods).node is None, "either may have failed first"
    assert cause_of(JOB, [*pods[:2], replace(pods[2], unreachable=True)]).node == "n2"


def test_a_crash_that_no_class_explains_is_that_of_a_lost_node_if_there_is_one() -> None:
    """A library that does not recognize a closed connection may raise any error."""
    crashed = survivor(1, 1, "RuntimeError: unhandled system error", 57)
    assert cause_of(JOB, [NO_POWER, crashed]).node == "n1"
    assert cause_of(JOB, [replace(NO_POWER, unreachable=True), crashed]).node == "n0"


@pytest.mark.parametrize("code", [76, 77, 78, 80])
def test_a_failure_that_explains_itself_is_the_pod_s_own_beside_a_lost_node(code: int) -> None:
    pods = [replace(NO_POWER, unreachable=True), survivor(1, code, "row 7 of a.jsonl has no label", 57)]
    assert cause_of(JOB, pods).node == "n1"


def test_a_pod_alone_is_its_own_cause_whatever_it_has_heard() -> None:
    assert cause_of(JOB, [survivor(0, 1, GONE)]).node == "n0"


def test_a_pod_of_the_same_index_that_was_there_before_a_queue_suspended_the_job_is_not_named() -> None:
    earlier = replace(running(0), uid="old", name="pod-0-old", node="elsewhere", present=False)
    assert cause_of(JOB, [earlier, NO_POWER, survivor(1, 79, SILENT, 57, slowest_rank=0)]).node == "n0"


def test_nobody_waits_for_the_word_of_a_pod_whose_node_is_lost() -> None:
    pods = (NO_POWER, survivor(1, 1, GONE))
    assert seconds_to_wait(JOB, pods, at(61), 5) > 0
    assert seconds_to_wait(JOB, (replace(NO_POWER, unreachable=True), pods[1]), at(61), 5) == 0


# ---- what a pod's object reveals about its node ---------------------------------------------------------------------


def pod_object(**conditions: Any) -> dict[str, Any]:
    told = [{"type": kind, "status": status, **extra} for kind, (status, extra) in conditions.items()]
    container = {"name": "trainer", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    return {"metadata": {"uid": "u"}, "spec": {}, "status": {"conditions": told, "containerStatuses": [container]}}


def test_a_pod_that_the_node_s_controller_has_called_not_ready_is_on_a_lost_node() -> None:
    """The node controller changes only Ready. Only a kubelet would change ContainersReady."""
    assert PodView.of(pod_object(Ready=("False", {}), ContainersReady=("True", {}))).on_lost_node
    assert not PodView.of(pod_object(Ready=("True", {}), ContainersReady=("True", {}))).on_lost_node
    assert not PodView.of(pod_object(Ready=("False", {}), ContainersReady=("False", {}))).on_lost_node
    gate = {"reason": "ReadinessGatesNotReady"}
    assert not PodView.of(pod_object(Ready=("False", gate), ContainersReady=("True", {}))).on_lost_node
