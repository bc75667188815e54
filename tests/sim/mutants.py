"""Faults that an operator could have, put into the real one, one at a time: the simulation must notice each.

A mutant that goes unnoticed shows a promise that the simulation does not check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, LedgerEntry, RunStatus
from finetune_operator.core import decide
from finetune_operator.core.attempt import cause, checkpoint, deadline, memory, restart, success
from finetune_operator.core.attempt.deadline import Wait
from finetune_operator.core.attempt.success import Verdict
from finetune_operator.core.decide import Decision
from finetune_operator.core.decisions import attempt_ends, attempt_goes_on, between_attempts, between_runs
from finetune_operator.core.observed import views as observed
from finetune_operator.core.observed.claims import ClaimView
from finetune_operator.core.observed.views import JobView, Observed, PodView
from finetune_operator.core.run import retrain, volume
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.core.times import from_text
from finetune_operator.protocol import FINETUNEJOBS, Object
from finetune_operator.runtime import app, job_memory, observer, reconciler
from finetune_operator.runtime.job_memory import JobMemories, Key
from finetune_operator.runtime.look import Look
from finetune_operator.runtime.reconciler import Reconciler
from finetune_trainer.contract import FailureClass

Change = Callable[[Observed], Observed]


def _seeing(change: Change) -> Any:
    """Patch the operator to decide correctly, but on changed observations."""

    def decide_otherwise(seen: Observed, settings: Settings) -> Decision:
        return decide.decide(change(seen), settings)

    return patch.object(reconciler, "decide", decide_otherwise)


def _with_run(seen: Observed, **update: Any) -> Observed:
    run = seen.job.status.run
    status = seen.job.status.model_copy(update={"run": run.model_copy(update=update) if run else None})
    return replace(seen, job=seen.job.model_copy(update={"status": status}))


# ---- the policies ---------------------------------------------------------------------------------------------------


def preemptions_are_counted() -> Any:
    return patch.object(restart, "UNCOUNTED", restart.UNCOUNTED - {FailureClass.PREEMPTED})


def hangs_are_not_counted() -> Any:
    return patch.object(restart, "UNCOUNTED", restart.UNCOUNTED | {FailureClass.HUNG})


def divergence_is_tried_again() -> Any:
    return patch.object(restart, "NEVER", restart.NEVER - {FailureClass.DIVERGED})


def the_window_is_ignored() -> Any:
    return patch.object(restart, "_within", lambda times, minutes, now: tuple(times))


def one_restart_too_many() -> Any:
    def later(failure: Any, run: Any, rows: Any, tolerance: Any, *rest: Any) -> Any:
        more = tolerance.model_copy(update={"max_restarts": tolerance.max_restarts + 1})
        return restart.after_failure(failure, run, rows, more, *rest)

    return patch.object(attempt_ends, "after_failure", later)


def there_is_no_back_off() -> Any:
    return patch.object(restart, "_delay", lambda doublings, jitter: 0.0)


def the_back_off_is_not_waited_for() -> Any:
    return _seeing(lambda seen: _with_run(seen, not_before=None))


def memory_that_ran_out_is_no_lesson() -> Any:
    def same_size(run: Any, rows: int) -> memory.Plan:
        return memory.Plan(rows, run.activation_checkpointing, "nothing is different")

    return patch.object(restart, "smaller", same_size)


def deadlines_are_forgotten() -> Any:
    return patch.object(attempt_goes_on, "overdue", lambda *_: Wait(None))


def queue_time_runs_while_suspended() -> Any:
    def overdue(run: RunStatus, *rest: Any) -> Any:
        tolerance, pods, reported, refused, now, _, attested = rest
        began = from_text(run.attempt_time or run.start_time)
        return deadline.overdue(run, tolerance, pods, reported, refused, now, began, attested)

    return patch.object(attempt_goes_on, "overdue", overdue)


def a_gang_that_gave_way_is_counted_among_preemptions() -> Any:
    def gave_way(run: RunStatus, times: tuple[str, ...], jitter: float) -> Any:
        return restart._uncounted(FailureClass.GANG_TIMEOUT, run, False, times, jitter)

    return patch.object(restart, "_gave_way", gave_way)


def bad_nodes_are_not_avoided() -> Any:
    return patch.object(attempt_ends, "bad_nodes", lambda *_: ())


def a_held_claim_is_not_waited_for() -> Any:
    return patch.object(volume, "holder", lambda remaining, modes: None)


@contextmanager
def pods_that_save_are_not_waited_for() -> Iterator[None]:
    def nobody(pods: Any, settle: float, now: Any) -> float:
        return 0.0

    after, between = (patch.object(part, "seconds_until_stopped", nobody) for part in (attempt_ends, between_attempts))
    with after, between:
        yield


def checkpoints_are_no_progress() -> Any:
    return patch.object(checkpoint, "has_progressed", lambda run, newest: False)


def ttl_is_over_at_once() -> Any:
    return _time_left(lambda ttl: None if ttl is None else 0.0)


def ttl_is_never_over() -> Any:
    return _time_left(lambda ttl: None)


@contextmanager
def _time_left(of: Callable[[int | None], float | None]) -> Iterator[None]:
    def seconds_left(run: RunStatus, ttl: int | None, now: Any) -> float | None:
        return of(ttl) if run.completion_time else None

    with patch.object(between_runs, "seconds_left", seconds_left), patch.object(observer, "seconds_left", seconds_left):
        yield


def edits_are_lost() -> Any:
    return patch.object(between_runs, "run_is_needed", lambda job: job.status.run is None)


def edits_wait_though_nothing_was_trained() -> Any:
    return patch.object(decide, "holds_at_once", lambda seen: False)


def edits_end_a_run_that_trains() -> Any:
    return patch.object(decide, "holds_at_once", lambda seen: seen.edit is not None)


def a_request_is_no_reason_to_try_again() -> Any:
    def digest(spec: Any) -> str:
        return _wanted(spec.model_copy(update={"retrain": spec.retrain.model_copy(update={"request": ""})}))

    _wanted = retrain.wanted_digest
    return patch.object(retrain, "wanted_digest", digest)


def suspended_jobs_go_on() -> Any:
    def awake(seen: Observed) -> Observed:
        spec = seen.job.spec.model_copy(update={"suspend": False})
        return replace(seen, job=seen.job.model_copy(update={"spec": spec}))

    return _seeing(awake)


def suspended_before_its_pods_are_gone() -> Any:
    return _seeing(lambda seen: replace(seen, remaining=()) if seen.job.spec.suspend else seen)


# ---- success and cause ----------------------------------------------------------------------------------------------


def one_index_is_enough() -> Any:
    def judge(run: RunStatus, child: JobView, pods: tuple[PodView, ...]) -> Verdict | None:
        every = frozenset(range(run.nodes)) if 0 in child.succeeded else child.succeeded
        return success.judge(run, replace(child, succeeded=every), pods)

    return patch.object(decide, "judge", judge)


def another_world_is_as_good() -> Any:
    def judge(run: RunStatus, child: JobView, pods: tuple[PodView, ...]) -> Verdict | None:
        verdict = success.judge(run, child, pods)
        result = next((p.message.result for p in pods if p.message and p.message.result), None)
        return Verdict(result) if verdict and result else verdict

    return patch.object(decide, "judge", judge)


def symptoms_are_taken_for_the_cause() -> Any:
    return patch.object(cause, "_failed_at", lambda pod: pod.ended or cause._LATE)


def whoever_heard_of_a_failure_is_blamed() -> Any:
    return patch.object(cause, "culprit", lambda witness, pods, ranks_per_pod: witness)


def evidence_is_dropped() -> Any:
    def merged(self: JobMemories, owner_uid: str, listed: Iterable[PodView], key: Key) -> tuple[PodView, ...]:
        return tuple(pod for pod in listed if pod.owner_uid == owner_uid)

    return patch.object(JobMemories, "merged", merged)


def deletions_of_pods_are_not_seen() -> Any:
    return patch.object(observed, "_deletion", lambda metadata: None)


# ---- the ledger -----------------------------------------------------------------------------------------------------


def entries_are_forgotten() -> Any:
    def entered(status: FineTuneJobStatus, entry: LedgerEntry) -> FineTuneJobStatus:
        return status if entry.class_ == FailureClass.SUSPENDED else _entered(status, entry)

    _entered = ledger.entered
    return patch.object(ledger, "entered", entered)


def entries_are_doubled() -> Any:
    def entered(status: FineTuneJobStatus, entry: LedgerEntry) -> FineTuneJobStatus:
        return _entered(_entered(status, entry), entry)

    _entered = ledger.entered
    return patch.object(ledger, "entered", entered)


# ---- attempts and children ------------------------------------------------------------------------------------------


def numbers_of_attempts_are_used_again() -> Any:
    def same(status: FineTuneJobStatus, run: RunStatus, *rest: Any) -> RunStatus:
        return _next(status, run, *rest).model_copy(update={"attempt": run.attempt})

    _next = attempt_ends.next_attempt
    return patch.object(attempt_ends, "next_attempt", same)


def the_attempt_before_is_left_alone() -> Any:
    def decide_otherwise(seen: Observed, settings: Settings) -> Decision:
        decision = decide.decide(replace(seen, previous=None), settings)
        return replace(decision, delete_job=None) if decision.status else decision

    return patch.object(reconciler, "decide", decide_otherwise)


def pods_are_kept_after_the_end() -> Any:
    return _seeing(lambda seen: _with_run(seen, release=False))


def children_of_others_are_adopted() -> Any:
    def mine(seen: Observed) -> Observed:
        uid = seen.job.metadata.uid
        return replace(seen, child=seen.child and replace(seen.child, owner_uid=uid))

    @contextmanager
    def both() -> Iterator[None]:
        with _seeing(mine), patch.object(reconciler, "is_of", lambda child, uid: True):
            yield

    return both()


def children_come_before_the_status() -> Any:
    async def execute(self: Reconciler, key: Any, look: Look, decision: Decision) -> Any:
        run = decision.status.run if decision.status else None
        begins = run and not run.completion_time and run.job_uid is None and run != look.observed.job.status.run
        if decision.status and begins:
            early = look.after_write(look.manifest, decision.status)
            await self._create(key, early, Decision(create_children=True))
        return await _execute(self, key, look, decision)

    _execute = Reconciler._execute
    return patch.object(Reconciler, "_execute", execute)


def the_last_writer_wins() -> Any:
    async def write(self: Reconciler, manifest: Object, status: FineTuneJobStatus) -> Any:
        metadata = manifest["metadata"]
        newest = await self.cluster.get(FINETUNEJOBS, metadata["namespace"], metadata["name"])
        version = {"resourceVersion": newest["metadata"]["resourceVersion"]}
        return await _write(self, {**manifest, "metadata": {**metadata, **version}}, status)

    _write = Reconciler._write
    return patch.object(Reconciler, "_write", write)


def lost_events_are_never_made_up_for() -> Any:
    async def nothing(*_: Any) -> None:
        return None

    return patch.object(app, "_resync", nothing)


def what_was_seen_once_is_never_looked_at_again() -> Any:
    return patch.object(job_memory, "within", lambda elapsed, seconds: True)


def claims_that_are_missing_are_not_missed() -> Any:
    there = ClaimView(("ReadWriteMany",))
    return _seeing(
        lambda seen: replace(seen, claims={name: found or there for name, found in (seen.claims or {}).items()})
    )


def children_that_are_gone_are_not_missed() -> Any:
    return _seeing(lambda seen: replace(seen, missing=()))


MUTANTS: tuple[Callable[[], Any], ...] = (
    preemptions_are_counted,
    hangs_are_not_counted,
    divergence_is_tried_again,
    the_window_is_ignored,
    one_restart_too_many,
    there_is_no_back_off,
    the_back_off_is_not_waited_for,
    memory_that_ran_out_is_no_lesson,
    deadlines_are_forgotten,
    queue_time_runs_while_suspended,
    a_gang_that_gave_way_is_counted_among_preemptions,
    bad_nodes_are_not_avoided,
    a_held_claim_is_not_waited_for,
    pods_that_save_are_not_waited_for,
    checkpoints_are_no_progress,
    ttl_is_over_at_once,
    ttl_is_never_over,
    edits_are_lost,
    edits_wait_though_nothing_was_trained,
    edits_end_a_run_that_trains,
    a_request_is_no_reason_to_try_again,
    suspended_jobs_go_on,
    suspended_before_its_pods_are_gone,
    one_index_is_enough,
    another_world_is_as_good,
    symptoms_are_taken_for_the_cause,
    whoever_heard_of_a_failure_is_blamed,
    evidence_is_dropped,
    deletions_of_pods_are_not_seen,
    entries_are_forgotten,
    entries_are_doubled,
    numbers_of_attempts_are_used_again,
    the_attempt_before_is_left_alone,
    pods_are_kept_after_the_end,
    children_of_others_are_adopted,
    children_come_before_the_status,
    the_last_writer_wins,
    lost_events_are_never_made_up_for,
    claims_that_are_missing_are_not_missed,
    children_that_are_gone_are_not_missed,
    what_was_seen_once_is_never_looked_at_again,
)
