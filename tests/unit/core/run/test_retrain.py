"""When a new run is needed, what an edit means for the current run, and what the next attempt keeps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import changed, manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import CheckpointStatus, FineTuneJob, FineTuneJobStatus, ResultStatus, RunStatus
from finetune_operator.core.attempt.restart import Restart
from finetune_operator.core.run.retrain import is_edited, next_attempt, next_run, run_is_needed, with_spec_of_run
from finetune_operator.core.settings import Settings

SETTINGS = Settings(image="trainer:1")
RESULT = ResultStatus(path="p", uri="u", digest="d", trainable_parameters=1, parameters=1)
HOLDS_AT_ONCE = [
    {"spec.suspend": True},
    {"spec.ttlSecondsAfterFinished": 5},
    {"spec.faultTolerance": {"maxRestarts": 9}},
    {"spec.retrain": {"whileRunning": "Replace"}},
    {"spec.checkpoint": {"request": "now", "everyMinutes": 5}},
]
SAME_MODEL = [{"spec.resources": {"nodes": 2, "gpusPerNode": 0}}, {"spec.retrain": {"request": "again"}}]
ANOTHER_MODEL = [{"spec.training.seed": 99}, {"spec.model.uri": "workspace://other"}]


def job(**changes: Any) -> FineTuneJob:
    return parse(manifest(**{"metadata.uid": "0b5e7d2a", "metadata.generation": 1, **changes}))


def ended(result: bool, **changes: Any) -> FineTuneJob:
    """Return a job whose first run has ended and whose spec was then edited."""
    run = next_run(job(), 1, SETTINGS, "n", NOW).model_copy(update={"completion_time": "2026-01-01T01:00:00Z"})
    status = FineTuneJobStatus(run=run, result=RESULT if result else None)
    edited = job(**{"metadata.generation": 2, **changes}) if changes else job()
    return edited.model_copy(update={"status": status})


def test_a_job_without_a_run_needs_one() -> None:
    assert run_is_needed(job())


@pytest.mark.parametrize("result", [True, False])
@pytest.mark.parametrize("edit", [{}, *HOLDS_AT_ONCE], ids=str)
def test_what_holds_at_once_asks_for_nothing(edit: dict[str, Any], result: bool) -> None:
    assert not run_is_needed(ended(result, **edit))


@pytest.mark.parametrize("edit", SAME_MODEL, ids=str)
def test_the_same_model_is_trained_again_only_after_a_failure(edit: dict[str, Any]) -> None:
    assert not run_is_needed(ended(True, **edit))
    assert run_is_needed(ended(False, **edit))


@pytest.mark.parametrize("result", [True, False])
@pytest.mark.parametrize("edit", ANOTHER_MODEL, ids=str)
def test_another_model_is_trained(edit: dict[str, Any], result: bool) -> None:
    assert run_is_needed(ended(result, **edit))


@pytest.mark.parametrize("edit", HOLDS_AT_ONCE, ids=str)
def test_what_holds_at_once_is_no_edit_of_the_run_that_goes_on(edit: dict[str, Any]) -> None:
    run = next_run(job(), 1, SETTINGS, "n", NOW)
    assert not is_edited(job(**{"metadata.generation": 2, **edit}), run)


@pytest.mark.parametrize("edit", [*SAME_MODEL, *ANOTHER_MODEL], ids=str)
def test_any_other_edit_waits_for_the_next_run(edit: dict[str, Any]) -> None:
    run = next_run(job(), 1, SETTINGS, "n", NOW)
    assert is_edited(job(**{"metadata.generation": 2, **edit}), run)


def test_a_run_goes_on_with_its_own_spec_and_the_budgets_of_now() -> None:
    now = job(**{"spec.training.seed": 2, "spec.suspend": True, "spec.faultTolerance": {"maxRestarts": 9}})
    going_on = with_spec_of_run(now, job(**{"spec.training.seed": 1}).spec).spec
    assert (going_on.training.seed, going_on.suspend, going_on.fault_tolerance.max_restarts) == (1, True, 9)


def test_upgrading_the_operator_starts_nothing() -> None:
    """Another default image has no effect, because the image was frozen when the run started."""
    finished = ended(True)
    assert not run_is_needed(finished)
    assert finished.status.run is not None
    assert finished.status.run.image == "trainer:1"


def test_the_next_attempt_keeps_the_run_and_forgets_the_pods() -> None:
    first = next_run(job(), 3, SETTINGS, "n", NOW).model_copy(update={"job_uid": "j", "active_seconds": 10})
    restart = Restart(delay=30, counted=True, failure_times=("t",), uncounted_in_row=2, micro_batch_size=4)
    told = CheckpointStatus(step=7, time="2026-01-01T00:00:00Z", bytes=1, save_seconds=40.2)
    status = FineTuneJobStatus(checkpoint=told)
    second = next_attempt(status, first, restart, ("bad",), 50, "other", NOW + timedelta(minutes=1))
    assert (second.checkpoint_step, second.grace_seconds) == (7, 81)
    assert (second.number, second.attempt, second.nonce, second.job_uid) == (3, 2, "other", None)
    assert (second.not_before, second.avoid_nodes, second.active_seconds) == ("2026-01-01T00:01:30Z", ["bad"], 60)
    assert (second.failure_times, second.uncounted_in_row, second.micro_batch_size) == (["t"], 2, 4)
    unchanged = {"image", "claim_name", "generation", "recipe", "wanted", "start_time", "nodes", "world"}
    assert second.model_dump(include=unchanged) == first.model_dump(include=unchanged)


def test_an_edited_spec_is_told_by_content_not_by_its_generation_alone() -> None:
    run: RunStatus = next_run(job(), 1, SETTINGS, "n", NOW)
    touched = changed(manifest(**{"metadata.uid": "0b5e7d2a"}), {"metadata.generation": 7})
    assert not is_edited(parse(touched), run)
