"""The deadlines of an attempt, and what it means when one has passed.

If no pod has a node, the run waits, and fails after `queueMinutes` if that is set. If only some pods have a node, the
attempt ends after `gangMinutes`, so that two gangs cannot block each other; that end is not counted. If all pods have a
node, their ranks must report within `startupMinutes`. All attempts of a run together may hold their nodes for
`activeMinutes`, if that is set.

Apart from `queueMinutes`, being unschedulable is never a failure. The times are those of the pods' own conditions, so a
restart of the operator loses none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.api.v1alpha1 import FaultTolerance, RunStatus
from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import FailureClass


@dataclass(frozen=True)
class Late:
    """A deadline that has passed."""

    failure: FailureClass
    message: str
    pod: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class Wait:
    """The time until the next deadline, when none has passed."""

    seconds: float | None
    """Seconds until a deadline may pass; None if none is running."""


def overdue(
    run: RunStatus,
    tolerance: FaultTolerance,
    pods: Iterable[PodView],
    reported: bool,
    refused: str | None,
    now: datetime,
    created: datetime,
    attested: Collection[str] = (),
) -> Late | Wait:
    """Return the deadline that has passed, or the time until the next one.

    `reported` tells whether all ranks have reported; `attested` has the UIDs of the pods whose ranks have just
    attested. `refused` is why the Job controller cannot create pods. `created` is when the attempt's Job was created;
    waiting before that time does not count as queueing.
    """
    alive = [pod for pod in pods if not pod.failed and pod.present]
    scheduled = [pod for pod in alive if pod.scheduled]
    held_up = _holding_up(alive, run.nodes, refused)
    waits: list[tuple[datetime, Late]] = []
    if not scheduled:
        if tolerance.queue_minutes is not None:
            late = Late(FailureClass.DEADLINE, f"no pod had a node within {tolerance.queue_minutes} minutes{held_up}")
            waits.append((created + timedelta(minutes=tolerance.queue_minutes), late))
    elif len(scheduled) < run.nodes:
        some = f"{len(scheduled)} of {run.nodes} pods had a node for {tolerance.gang_minutes} minutes"
        first = min(pod.scheduled_at or created for pod in scheduled)
        late = Late(FailureClass.GANG_TIMEOUT, f"{some}, and gave way{held_up}")
        waits.append((first + timedelta(minutes=tolerance.gang_minutes), late))
    else:
        since = max(pod.scheduled_at or created for pod in scheduled)
        silent = [] if reported else [pod for pod in scheduled if pod.uid not in attested]
        waits += _of_a_whole_gang(run, tolerance, silent, reported, since)
    for end, late in sorted(waits, key=lambda wait: wait[0]):
        if now >= end:
            return late
    return Wait(min(((end - now).total_seconds() for end, _ in waits), default=None))


def _of_a_whole_gang(
    run: RunStatus, tolerance: FaultTolerance, silent: list[PodView], reported: bool, since: datetime
) -> Iterable[tuple[datetime, Late]]:
    if not reported:
        slow = min(silent, key=lambda pod: (not pod.waiting, pod.running), default=None)
        stuck = slow and (slow.waiting or ("its ranks have not reported" if slow.running else "it does not run yet"))
        why = f": pod {slow.name} on node {slow.node}: {stuck}" if slow else ""
        message = f"not every rank had reported {tolerance.startup_minutes} minutes after all pods had a node{why}"
        late = Late(FailureClass.STARTUP_TIMEOUT, message, slow.name if slow else None, slow.node if slow else None)
        yield since + timedelta(minutes=tolerance.startup_minutes), late
    if tolerance.active_minutes is not None:
        left = timedelta(minutes=tolerance.active_minutes) - timedelta(seconds=run.active_seconds)
        message = f"the run's attempts held their nodes for {tolerance.active_minutes} minutes (activeMinutes)"
        yield since + left, Late(FailureClass.DEADLINE, message)


def active_seconds(run: RunStatus, pods: Iterable[PodView], now: datetime) -> int:
    """Return for how many seconds this attempt has held all its nodes."""
    times = [pod.scheduled_at for pod in pods if pod.scheduled_at]
    return max(0, round((now - max(times)).total_seconds())) if len(times) >= run.nodes else 0


def _holding_up(pods: list[PodView], nodes: int, refused: str | None) -> str:
    """Describe which pod waits, and for what."""
    stuck = next((pod for pod in pods if not pod.scheduled and pod.waiting), None)
    if stuck:
        return f": pod {stuck.name}: {stuck.waiting}"
    if refused:
        return f": {refused}"
    return f": {nodes - len(pods)} pods were not made" if len(pods) < nodes else ""
