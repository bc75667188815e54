"""When a gang's pods were all created, when they all ran, and when the status reported it."""

from itertools import count
from typing import Any

import pytest
from operator_benchmark.sightings import Gang, Sightings, says_all_pods_run

from finetune_operator import constants
from finetune_operator.protocol import Event


def pod(uid: str, phase: str = "Pending", job: str = "a", attempt: int = 1) -> dict[str, Any]:
    labels = {constants.LABEL_JOB: job, constants.LABEL_ATTEMPT: str(attempt)}
    return {"metadata": {"name": uid, "uid": uid, "labels": labels}, "status": {"phase": phase}}


def job(reason: str, attempt: int = 1) -> dict[str, Any]:
    status = {"run": {"attempt": attempt}, "conditions": [{"type": "Ready", "reason": reason}]}
    return {"metadata": {"name": "a"}, "status": status}


@pytest.fixture
def seen() -> Sightings:
    """Return sightings whose clock shows second n at its n-th reading."""
    ticks = count(1)
    return Sightings(2, clock=lambda: float(next(ticks)))


def test_a_gang_is_created_when_its_last_pod_is_and_runs_when_all_do(seen: Sightings) -> None:
    seen.saw_pod(Event("ADDED", pod("x")))
    seen.saw_pod(Event("MODIFIED", pod("x", "Running")))
    assert not seen.created
    seen.saw_pod(Event("ADDED", pod("y")))
    assert (dict(seen.created), dict(seen.running)) == ({Gang("a", 1): 1.0}, {})
    seen.saw_pod(Event("MODIFIED", pod("y", "Running")))
    seen.saw_pod(Event("MODIFIED", pod("y", "Running")))
    assert seen.running == {Gang("a", 1): 2.0}


def test_pods_of_different_attempts_are_different_gangs(seen: Sightings) -> None:
    for uid, attempt in (("x", 1), ("y", 2)):
        seen.saw_pod(Event("ADDED", pod(uid, "Running", attempt=attempt)))
    assert not seen.created


def test_a_pod_that_failed_or_went_does_not_run(seen: Sightings) -> None:
    seen.saw_pod(Event("ADDED", pod("x", "Running")))
    seen.saw_pod(Event("DELETED", pod("x", "Running")))
    seen.saw_pod(Event("ADDED", pod("y", "Running")))
    seen.saw_pod(Event("MODIFIED", pod("y", "Failed")))
    seen.saw_pod(Event("ADDED", pod("z", "Running")))
    assert not seen.running
    assert {found["metadata"]["uid"] for found in seen.of(Gang("a", 1))} == {"y", "z"}


def test_a_status_tells_of_the_attempt_that_it_is_about(seen: Sightings) -> None:
    seen.saw_job(Event("MODIFIED", job("Starting")))
    seen.saw_job(Event("MODIFIED", job(constants.PODS_RUNNING.name, attempt=2)))
    assert seen.told == {Gang("a", 2): 1.0}


def test_a_status_that_is_empty_tells_nothing() -> None:
    assert not says_all_pods_run({})


async def test_a_wait_ends_when_the_sight_comes(seen: Sightings) -> None:
    for uid in ("x", "y"):
        seen.saw_pod(Event("ADDED", pod(uid)))
    await seen.until(lambda: Gang("a", 1) in seen.created, "all are created", 5)


async def test_a_wait_in_vain_says_for_what(seen: Sightings) -> None:
    with pytest.raises(TimeoutError, match="until pigs fly"):
        await seen.until(lambda: False, "pigs fly", 0.01)
