"""Decides after a failed attempt whether another one follows, when, and what is different in it.

A failure that another attempt cannot avoid (invalid data, divergence, another world, untrusted checkpoints) is never
tried again. An end that is nobody's fault (preemption, suspension, an edit before training began, a gang timeout) is
tried again and not counted. After memory ran out, a smaller plan is tried, which is not counted either.

All other failures are counted in a window of time. The first failure in the window starts the next attempt at once;
from the second on, there is a delay that doubles. The delay has jitter, so that jobs that fail together do not restart
together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.api.v1alpha1 import FaultTolerance, LedgerEntry, RunStatus
from finetune_operator.core.attempt.memory import NOTHING_SMALLER, smaller
from finetune_operator.core.times import from_text, to_text
from finetune_trainer.contract import FailureClass

NEVER = frozenset(
    {
        FailureClass.INVALID,
        FailureClass.DIVERGED,
        FailureClass.MISMATCH,
        FailureClass.UNTRUSTED,
        FailureClass.DEADLINE,
        FailureClass.REPLACED,
    }
)
ON_REQUEST = frozenset({FailureClass.SUSPENDED, FailureClass.EDITED})
"""The classes of attempts that a user or a queue wanted to end."""
UNCOUNTED = ON_REQUEST | {FailureClass.PREEMPTED, FailureClass.GANG_TIMEOUT, FailureClass.SUPERSEDED}
MAX_UNCOUNTED_IN_ROW = 20
"""The largest number of uncounted attempts in a row that leave no new checkpoint."""
FIRST_DELAY = 10.0
LAST_DELAY = 300.0
FAILURES_OF_A_BAD_NODE = 2
MAX_AVOIDED = 10


@dataclass(frozen=True)
class Restart:
    """The decision that another attempt follows."""

    delay: float
    """Seconds until the next attempt may start."""
    counted: bool = False
    failure_times: tuple[str, ...] = ()
    """The times of the counted failures that are still in the window."""
    uncounted_in_row: int = 0
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False
    change: str = ""
    """What is different in the next attempt; it is added to the cause."""
    gave_way_in_row: int = 0


@dataclass(frozen=True)
class GiveUp:
    """The decision that the run has failed."""

    why: str
    """The reason, which is added to the cause; empty if the cause says everything."""
    counted: bool = False


def after_failure(
    failure: FailureClass,
    run: RunStatus,
    micro_batch_size: int,
    tolerance: FaultTolerance,
    now: datetime,
    jitter: float,
    progressed: bool = False,
) -> Restart | GiveUp:
    """Return what follows after a failure of that class.

    `micro_batch_size` is the attempt's; `jitter` is between 0 and 1; `progressed` tells whether the attempt left a
    newer checkpoint than it began with.
    """
    if failure in NEVER:
        return GiveUp("")
    times = _within(run.failure_times, tolerance.window_minutes, now)
    if failure is FailureClass.GANG_TIMEOUT:
        return _gave_way(run, times, jitter)
    if failure in UNCOUNTED:
        return _uncounted(failure, run, progressed, times, jitter)
    if failure is FailureClass.OUT_OF_MEMORY:
        if (plan := smaller(run, micro_batch_size)) is None:
            return GiveUp(NOTHING_SMALLER)
        return Restart(0.0, False, times, 0, plan.micro_batch_size, plan.activation_checkpointing, plan.sentence)
    times = (*times, to_text(now))
    if len(times) > tolerance.max_restarts:
        window = f"{tolerance.window_minutes} minutes"
        return GiveUp(f"faultTolerance.maxRestarts is {tolerance.max_restarts} in {window}", counted=True)
    delay = 0.0 if len(times) == 1 else _delay(len(times) - 2, jitter)
    return Restart(delay, True, times, 0, run.micro_batch_size, run.activation_checkpointing)


def bad_nodes(ledger: Iterable[LedgerEntry], run: int, tolerance: FaultTolerance, now: datetime) -> tuple[str, ...]:
    """Return the nodes with at least two counted failures in the window, at most the newest ten."""
    since = now - timedelta(minutes=tolerance.window_minutes)
    failures = [
        entry.node
        for entry in ledger
        if entry.run == run and entry.counted and entry.node and from_text(entry.end_time) > since
    ]
    return tuple(dict.fromkeys(n for n in failures if failures.count(n) >= FAILURES_OF_A_BAD_NODE))[-MAX_AVOIDED:]


def _within(times: Iterable[str], minutes: int, now: datetime) -> tuple[str, ...]:
    since = now - timedelta(minutes=minutes)
    return tuple(time for time in times if from_text(time) > since)


def _gave_way(run: RunStatus, times: tuple[str, ...], jitter: float) -> Restart:
    """Return the restart after a gang timeout, which is never a failure, however often it happens."""
    in_row = run.gave_way_in_row + 1
    return Restart(
        _delay(in_row - 1, jitter),
        False,
        times,
        run.uncounted_in_row,
        run.micro_batch_size,
        run.activation_checkpointing,
        gave_way_in_row=in_row,
    )


def _uncounted(
    failure: FailureClass, run: RunStatus, progressed: bool, times: tuple[str, ...], jitter: float
) -> Restart | GiveUp:
    in_row = (0 if progressed else run.uncounted_in_row) + (failure not in ON_REQUEST)
    if in_row > MAX_UNCOUNTED_IN_ROW:
        return GiveUp(f"{MAX_UNCOUNTED_IN_ROW} attempts in a row were stopped without a new checkpoint")
    at_once = failure in ON_REQUEST or (failure is FailureClass.PREEMPTED and in_row == 1)
    delay = 0.0 if at_once else _delay(in_row - 1, jitter)
    return Restart(delay, False, times, in_row, run.micro_batch_size, run.activation_checkpointing)


def _delay(doublings: int, jitter: float) -> float:
    return float(min(LAST_DELAY, FIRST_DELAY * 2 ** min(doublings, 30)) * (0.5 + jitter))
