"""The operator's metrics about its own work, for Prometheus; docs/metrics.md describes each of them.

The reconciler and the queue report what happened; what a change of status means for a metric is derived from the status
before and after it. No metric is labelled by job, so the number of series does not grow with the number of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.constants import ConditionType, Phase
from finetune_operator.core.status.conditions import is_true
from finetune_operator.core.status.ledger import SUCCESS
from finetune_operator.core.times import from_text
from finetune_operator.protocol import ConflictError, NotFoundError
from finetune_trainer.contract import FailureClass

Outcome = Literal["success", "error", "conflict"]

WORK_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RECOVERY_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
START_BUCKETS = (5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)


class Metrics:
    """All metrics of one operator, in their own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._in_phase: Callable[[str], int] = lambda phase: 0
        self._reconciles = Counter(
            "finetune_reconcile_total", "Reconciles, by how they ended.", ["result"], registry=registry
        )
        self._reconcile_seconds = Histogram(
            "finetune_reconcile_seconds", "How long reconciles took.", buckets=WORK_BUCKETS, registry=registry
        )
        self._depth = Gauge("finetune_workqueue_depth", "Jobs that wait for a reconcile.", registry=registry)
        self._wait_seconds = Histogram(
            "finetune_workqueue_wait_seconds",
            "How long jobs waited for their reconcile.",
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self._jobs = Gauge("finetune_jobs", "FineTuneJobs, by phase.", ["phase"], registry=registry)
        self._attempts = Counter(
            "finetune_attempts_total", "Attempts that ended, by how.", ["class"], registry=registry
        )
        self._world_ready_seconds = Histogram(
            "finetune_world_ready_seconds",
            "From a run's start until all its ranks had reported.",
            buckets=START_BUCKETS,
            registry=registry,
        )
        self._recovery_seconds = Histogram(
            "finetune_recovery_seconds",
            "From an attempt's end until all ranks of a later one had reported.",
            buckets=RECOVERY_BUCKETS,
            registry=registry,
        )
        self._leader = Gauge("finetune_leader", "1 if this operator leads, 0 if it waits to.", registry=registry)
        self._leader.set_function(lambda: float(self.leads))
        self.leads = False
        """Whether this operator is the leader; False for a standby."""
        self._status_writes = Counter("finetune_status_writes_total", "Statuses written.", registry=registry)
        # Each series exists from the start: otherwise Prometheus would not see its first increase.
        for outcome in get_args(Outcome):
            self._reconciles.labels(outcome)
        for ended in (SUCCESS, *FailureClass):
            self._attempts.labels(ended)
        for phase in Phase:
            self._jobs.labels(phase).set_function(partial(self._count, phase))

    # ---- the queue --------------------------------------------------------------------------------------------------

    def measure_depth(self, depth: Callable[[], int]) -> None:
        """Set the function that returns how many jobs wait."""
        self._depth.set_function(depth)

    def waited(self, seconds: float) -> None:
        """Record for how many seconds a job waited for its turn."""
        self._wait_seconds.observe(seconds)

    # ---- reconciles -------------------------------------------------------------------------------------------------

    @contextmanager
    def reconcile(self) -> Iterator[None]:
        """Measure one reconcile; one that is cancelled does not count."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            self._reconciled(_outcome(error), time.perf_counter() - started)
            raise
        self._reconciled("success", time.perf_counter() - started)

    def _reconciled(self, outcome: Outcome, seconds: float) -> None:
        self._reconciles.labels(outcome).inc()
        self._reconcile_seconds.observe(seconds)

    def wrote(self, old: FineTuneJobStatus, new: FineTuneJobStatus) -> None:
        """Record that a new status was written."""
        self._status_writes.inc()
        if ended := ended_attempt(old, new):
            self._attempts.labels(ended).inc()
        if (seconds := seconds_to_world_ready(old, new)) is not None:
            self._world_ready_seconds.observe(seconds)
        if (seconds := seconds_to_recovery(old, new)) is not None:
            self._recovery_seconds.observe(seconds)

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def measure_phases(self, in_phase: Callable[[str], int]) -> None:
        """Set the function that returns how many jobs are in a phase."""
        self._in_phase = in_phase

    def _count(self, phase: Phase) -> float:
        return self._in_phase(phase)


def _outcome(error: Exception) -> Outcome:
    if isinstance(error, NotFoundError):
        return "success"  # the job was deleted in between: nothing is left to do
    return "conflict" if isinstance(error, ConflictError) else "error"


def ended_attempt(old: FineTuneJobStatus, new: FineTuneJobStatus) -> str | None:
    """Return Success or the class of the failure if an attempt ended between two statuses.

    The ledger drops its oldest entries, so its last entry is compared and not its length.
    """
    if new.ledger:
        entry = new.ledger[-1]
        if all((entry.run, entry.attempt) != (known.run, known.attempt) for known in old.ledger):
            return entry.class_
    return None


def seconds_to_world_ready(old: FineTuneJobStatus, new: FineTuneJobStatus) -> float | None:
    """Return the seconds from the run's start until WorldReady first became true in the run.

    Return None unless that happened between the two statuses. The times are whole seconds, as statuses have them.
    """
    ready = _became_ready(old, new)
    if ready is None or new.run is None or _lost(old, new.run):
        return None
    return _seconds(from_text(new.run.start_time), ready)


def seconds_to_recovery(old: FineTuneJobStatus, new: FineTuneJobStatus) -> float | None:
    """Return the seconds from the loss of WorldReady until it became true again in the same run.

    Return None unless that happened between the two statuses, or if the job was suspended in the meantime.
    """
    ready = _became_ready(old, new)
    lost = _lost(old, new.run) if new.run else None
    if ready is None or new.run is None or lost is None:
        return None
    since = [entry for entry in new.ledger if entry.run == new.run.number and from_text(entry.end_time) >= lost]
    return None if any(entry.class_ == FailureClass.SUSPENDED for entry in since) else _seconds(lost, ready)


def _became_ready(old: FineTuneJobStatus, new: FineTuneJobStatus) -> datetime | None:
    kind = ConditionType.WORLD_READY
    if is_true(old.conditions, kind):
        return None
    return next(
        (from_text(c.last_transition_time) for c in new.conditions if c.type == kind and c.status == "True"), None
    )


def _lost(status: FineTuneJobStatus, run: RunStatus) -> datetime | None:
    """Return when WorldReady became false in this run; None if it has not been true in it."""
    kind = ConditionType.WORLD_READY
    times = (from_text(c.last_transition_time) for c in status.conditions if c.type == kind)
    return next((time for time in times if time > from_text(run.start_time)), None)


def _seconds(begin: datetime, end: datetime) -> float:
    """Return the seconds between two times; 0 if the clock was set back in between."""
    return max(0.0, (end - begin).total_seconds())
