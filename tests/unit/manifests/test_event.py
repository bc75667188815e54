"""An event's content, and its name, which is the same for repetitions of the event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import changed

from finetune_operator.core.status.transitions import Note
from finetune_operator.manifests.event import event

JOB = {
    "metadata": {"name": "clauses", "namespace": "default", "uid": "u", "resourceVersion": "7", "generation": 1},
    "status": {"run": {"number": 1, "attempt": 1}},
}
NOTE = Note("Normal", "Training", "Run 1 trains")


def name(job: dict[str, Any] = JOB, note: Note = NOTE, later: int = 0) -> str:
    made: str = event(job, note, NOW + timedelta(seconds=later))["metadata"]["name"]
    return made


def test_it_is_about_the_job_and_says_what_the_note_says() -> None:
    made = event(JOB, NOTE, NOW)
    assert (made["apiVersion"], made["type"], made["reason"]) == ("events.k8s.io/v1", "Normal", "Training")
    assert (made["note"], made["eventTime"]) == ("Run 1 trains", "2026-01-01T00:00:00.000000Z")
    assert (made["regarding"]["kind"], made["regarding"]["uid"]) == ("FineTuneJob", "u")


def test_a_long_note_has_at_most_1024_bytes_as_the_api_server_wants_it() -> None:
    made = event(JOB, Note("Warning", "Failed", "漢" * 1000), NOW)
    assert 1000 < len(made["note"].encode()) <= 1024


@pytest.mark.parametrize(
    "change", [{"metadata.resourceVersion": "8"}, {"metadata.generation": 2}, {"status.progress": {"step": 3}}], ids=str
)
def test_the_same_said_again_of_an_attempt_has_the_same_name(change: dict[str, Any]) -> None:
    assert name(changed(JOB, change), later=60) == name()


@pytest.mark.parametrize(
    "change", [{"metadata.uid": "v"}, {"status.run.number": 2}, {"status.run.attempt": 2}], ids=str
)
def test_the_same_said_of_another_attempt_or_job_has_another_name(change: dict[str, Any]) -> None:
    assert name(changed(JOB, change)) != name()


@pytest.mark.parametrize(
    "note", [Note("Normal", "Exporting", NOTE.message), Note("Normal", "Training", "Run 2 trains")]
)
def test_something_else_said_has_another_name(note: Note) -> None:
    assert name(note=note) != name()


def test_a_job_without_a_run_has_events_too() -> None:
    assert name(changed(JOB, {"status": {}})) != name()
