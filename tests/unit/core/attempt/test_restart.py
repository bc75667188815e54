"""Whether and when another attempt follows a failure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FaultTolerance, LedgerEntry, RunStatus
from finetune_operator.core.attempt.memory import NOTHING_SMALLER
from finetune_operator.core.attempt.restart import (
    LAST_DELAY,
    MAX_UNCOUNTED_IN_ROW,
    NEVER,
    UNCOUNTED,
    GiveUp,
    Restart,
    after_failure,
    bad_nodes,
)
from finetune_operator.core.run.retrain import next_run
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
    failure: FailureClass,
    now: RunStatus,
    rows: int = 8,
    tolerance: FaultTolerance = TOLERANCE,
    jitter: float = 0.5,
    progressed: bool = False,
) -> Restart | GiveUp:
    return after_failure(failure, now, rows, tolerance, NOW, jitter, progressed)


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


def test_a_new_checkpoint_ends_the_row_of_preemptions() -> None:
    tired = run(uncounted_in_row=MAX_UNCOUNTED_IN_ROW)
    verdict = restarted(FailureClass.PREEMPTED, tired, progressed=True)
    assert (verdict.uncounted_in_row, verdict.delay) == (1, 0.0)


def test_a_gang_that_gives_way_never_fails_the_run() -> None:
    now, delays = run(uncounted_in_row=MAX_UNCOUNTED_IN_ROW), []
    for _ in range(2 * MAX_UNCOUNTED_IN_ROW):
        verdict = restarted(FailureClass.GANG_TIMEOUT, now)
        delays.append(verdict.delay)
        now = now.model_copy(update={"gave_way_in_row": verdict.gave_way_in_row})
        assert verdict.uncounted_in_row == MAX_UNCOUNTED_IN_ROW
    assert delays[:3] == [10, 20, 40]
    assert delays[-1] == LAST_DELAY
    assert restarted(FailureClass.SUSPENDED, now).gave_way_in_row == 0


def test_out_of_memory_is_tried_with_smaller_plans_until_there_is_none_and_uncounted() -> None:
    plans, now, rows = [], run(), 8
    while isinstance(verdict := follows(FailureClass.OUT_OF_MEMORY, now, rows=rows), Restart):
        assert (verdict.counted, verdict.delay, bool(verdict.change)) == (False, 0.0, True)
        rows = verdict.micro_batch_size or rows
        plan = {"micro_batch_size": rows, "activation_checkpointing": verdict.activation_checkpointing}
        plans.append((rows, verdict.activation_checkpointing))
        now = now.model_copy(update=plan)
    assert plans == [(4, False), (4, True), (2, True), (1, True)]
    assert verdict == GiveUp(NOTHING_SMALLER)


def test_a_smaller_plan_stays_for_the_attempts_that_follow() -> None:
    smaller = run(micro_batch_size=4, activation_checkpointing=True)
    for failure in (FailureClass.HUNG, FailureClass.PREEMPTED, FailureClass.GANG_TIMEOUT):
        verdict = restarted(failure, smaller)
        assert (verdict.micro_batch_size, verdict.activation_checkpointing) == (4, True)


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
