"""What follows on a failure: another attempt, when, or none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FaultTolerance, LedgerEntry, RunStatus
from finetune_operator.core.restart import (
    LAST_DELAY,
    MAX_UNCOUNTED_IN_ROW,
    NEVER,
    UNCOUNTED,
    GiveUp,
    Restart,
    after_failure,
    bad_nodes,
)
from finetune_operator.core.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import to_text
from finetune_trainer.contract import FailureClass

TOLERANCE = FaultTolerance(max_restarts=3, window_minutes=60)
COUNTED = sorted(set(FailureClass) - NEVER - UNCOUNTED - {FailureClass.OUT_OF_MEMORY})


def run(**changes: Any) -> RunStatus:
    made = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)
    return made.model_copy(update=changes)


def minutes_ago(*minutes: float) -> list[str]:
    return [to_text(NOW - timedelta(minutes=m)) for m in minutes]


def follows(
    failure: FailureClass, now: RunStatus, rows: int = 8, tolerance: FaultTolerance = TOLERANCE, jitter: float = 0.5
) -> Restart | GiveUp:
    return after_failure(failure, now, rows, tolerance, NOW, jitter)


def restarted(failure: FailureClass, now: RunStatus, **given: Any) -> Restart:
    verdict = follows(failure, now, **given)
    assert isinstance(verdict, Restart)
    return verdict


@pytest.mark.parametrize("failure", sorted(NEVER))
def test_what_cannot_help_is_never_tried_again(failure: FailureClass) -> None:
    assert follows(failure, run()) == GiveUp("")


@pytest.mark.parametrize("failure", COUNTED)
def test_the_first_counted_failure_in_the_window_restarts_at_once(failure: FailureClass) -> None:
    first = restarted(failure, run(failure_times=minutes_ago(61)))
    assert (first.delay, first.counted, first.failure_times) == (0.0, True, (to_text(NOW),))


def test_from_the_second_on_there_is_a_delay_that_doubles_with_jitter() -> None:
    wide = FaultTolerance(max_restarts=50, window_minutes=60)
    delays = [
        restarted(FailureClass.HUNG, run(failure_times=minutes_ago(*range(1, n + 1))), tolerance=wide).delay
        for n in range(1, 8)
    ]
    assert delays == [10, 20, 40, 80, 160, LAST_DELAY, LAST_DELAY]
    now = run(failure_times=minutes_ago(1))
    assert [restarted(FailureClass.HUNG, now, jitter=j).delay for j in (0.0, 1.0)] == [5, 15]


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_the_budget_is_exact(allowed: int) -> None:
    tolerance = FaultTolerance(max_restarts=allowed, window_minutes=60)
    now, attempts = run(), 1
    while isinstance(verdict := follows(FailureClass.INFRASTRUCTURE, now, tolerance=tolerance), Restart):
        attempts += 1
        now = now.model_copy(update={"failure_times": list(verdict.failure_times)})
    assert attempts == 1 + allowed
    assert verdict.counted
    assert f"maxRestarts is {allowed} in 60 minutes" in verdict.why


@pytest.mark.parametrize("failure", sorted(UNCOUNTED))
def test_what_is_nobody_s_fault_is_not_counted(failure: FailureClass) -> None:
    full = run(failure_times=minutes_ago(1, 2, 3))
    verdict = restarted(failure, full)
    assert (verdict.counted, verdict.failure_times) == (False, tuple(full.failure_times))


def test_a_preempted_attempt_starts_again_at_once_and_one_that_gave_way_later() -> None:
    assert restarted(FailureClass.PREEMPTED, run()).delay == 0
    assert restarted(FailureClass.PREEMPTED, run(uncounted_in_row=1)).delay > 0
    assert restarted(FailureClass.GANG_TIMEOUT, run()).delay > 0


def test_preemptions_in_a_row_come_to_an_end_and_suspensions_do_not() -> None:
    tired = run(uncounted_in_row=MAX_UNCOUNTED_IN_ROW)
    assert isinstance(follows(FailureClass.PREEMPTED, tired), GiveUp)
    assert isinstance(follows(FailureClass.SUSPENDED, tired), Restart)
    assert restarted(FailureClass.HUNG, tired).uncounted_in_row == 0


def test_out_of_memory_is_tried_once_more_with_half_the_rows_and_uncounted() -> None:
    verdict = restarted(FailureClass.OUT_OF_MEMORY, run(), rows=8)
    assert (verdict.micro_batch_size, verdict.counted, verdict.delay) == (4, False, 0.0)
    again = follows(FailureClass.OUT_OF_MEMORY, run(micro_batch_size=4), rows=4)
    assert again == GiveUp("also with 4 rows in a forward pass")
    assert isinstance(follows(FailureClass.OUT_OF_MEMORY, run(), rows=1), GiveUp)


def test_a_smaller_plan_stays_for_the_attempts_that_follow() -> None:
    for failure in (FailureClass.HUNG, FailureClass.PREEMPTED):
        assert restarted(failure, run(micro_batch_size=4)).micro_batch_size == 4


def entry(node: str | None, minutes: float = 1, counted: bool = True, number: int = 1) -> LedgerEntry:
    (end,) = minutes_ago(minutes)
    return LedgerEntry(
        run=number, attempt=1, class_="Hung", counted=counted, message="", node=node, start_time=end, end_time=end
    )


def test_a_node_that_failed_twice_in_the_window_is_avoided() -> None:
    ledger = [entry("bad"), entry("good"), entry("bad"), entry(None), entry(None)]
    assert bad_nodes(ledger, 1, TOLERANCE, NOW) == ("bad",)


@pytest.mark.parametrize("other", [entry("n", minutes=61), entry("n", counted=False), entry("n", number=2)])
def test_old_uncounted_and_other_runs_failures_do_not_make_a_node_bad(other: LedgerEntry) -> None:
    assert bad_nodes([entry("n"), other], 1, TOLERANCE, NOW) == ()
