"""The operator records who suspended a run, and a suspension costs no restart."""

from __future__ import annotations

from dataclasses import replace

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.attempt.restart import UNCOUNTED
from finetune_operator.core.observed.views import JobView, PodView
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.run.suspend import by_another, by_user
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import FailureClass

CHILD = JobView("j", "o", NOW, None, "", frozenset(), 1, False, suspended=True)
STARTED = PodView("u", "p", 0, "j", scheduled=True, scheduled_at=NOW)


def test_an_attempt_that_the_user_stops_is_not_counted() -> None:
    run = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "n", NOW)
    cause = by_user(run)
    assert cause.failure is FailureClass.SUSPENDED
    assert cause.failure in UNCOUNTED
    assert "attempt 1 was stopped by spec.suspend" in cause.message


def test_a_job_suspended_after_its_pods_had_started_was_preempted_by_its_queue() -> None:
    cause = by_another(CHILD, (STARTED,))
    assert cause is not None
    assert cause.failure is FailureClass.SUSPENDED
    gone = replace(STARTED, present=False)
    assert by_another(CHILD, (gone,)) == cause, "its pods may be gone already"


def test_a_job_that_is_suspended_before_its_start_waits_its_turn() -> None:
    assert by_another(CHILD, ()) is None
    assert by_another(CHILD, (PodView("u", "p", 0, "j"),)) is None


def test_a_job_that_is_not_suspended_goes_on() -> None:
    assert by_another(replace(CHILD, suspended=False), (STARTED,)) is None
