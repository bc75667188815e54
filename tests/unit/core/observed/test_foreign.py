"""Objects that others wrote: a value of the wrong type counts as absent."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.core.observed.views import JobView, PodView

NOTHING: list[Any] = [{}, {"metadata": None}, {"metadata": {"labels": None, "ownerReferences": [None]}, "status": []}]


@pytest.mark.parametrize("pod", NOTHING)
def test_a_pod_that_says_nothing_is_a_pod_that_waits(pod: dict[str, Any]) -> None:
    view = PodView.of(pod)
    assert (view.phase, view.scheduled, view.failed, view.owner_uid) == ("Pending", False, False, None)


@pytest.mark.parametrize("job", NOTHING)
def test_a_job_that_says_nothing_goes_on_and_is_nobody_s(job: dict[str, Any]) -> None:
    view = JobView.of(job)
    assert (view.failure, view.succeeded, view.owner_uid, view.deleted) == (None, frozenset(), None, False)


@pytest.mark.parametrize(
    ("text", "indexes"),
    [("0-2,5", {0, 1, 2, 5}), ("0-99999999999", set()), ("-1,x,,2", {2}), (7, set()), ("3-1", set())],
)  # fmt: skip
def test_indexes_that_no_job_has_are_none(text: object, indexes: set[int]) -> None:
    assert JobView.of({"status": {"completedIndexes": text}}).succeeded == indexes


def test_a_failure_without_a_time_that_can_be_read_is_a_failure() -> None:
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "soon"}
    assert JobView.of({"status": {"conditions": [failed]}}).failure is not None
