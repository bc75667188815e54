"""Leadership, which is decided from the lease and the operator's own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.core.leadership import (
    ACT_FOR,
    LEASE_SECONDS,
    Sighting,
    held_by,
    is_operator_s,
    may_act,
    may_take,
    new_lease,
    released,
    sighted,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 0, 0, 5, 250_000, tzinfo=UTC)


def lease(holder: str = "one", **spec: Any) -> dict[str, Any]:
    made = new_lease("ops", "finetune-operator", holder, NOW)
    return {**made, "spec": {**made["spec"], **spec}}


def test_the_first_holder_acquires_and_renews_in_one() -> None:
    assert lease()["spec"] == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }


def test_a_renewal_changes_the_time_of_renewal_alone() -> None:
    assert held_by(lease(), "one", LATER)["spec"] == {**lease()["spec"], "renewTime": "2026-01-01T00:00:05.250000Z"}


def test_who_takes_over_is_another_transition_and_leaves_what_is_not_ours() -> None:
    taken = held_by(lease(preferredHolder="x"), "other", LATER)["spec"]
    assert (taken["holderIdentity"], taken["leaseTransitions"], taken["preferredHolder"]) == ("other", 1, "x")
    assert taken["acquireTime"] == taken["renewTime"] == "2026-01-01T00:00:05.250000Z"


def test_a_released_lease_is_nobody_s_and_may_be_taken_at_once() -> None:
    given_back = released(lease(), LATER)
    assert may_take(sighted(None, given_back, 100), "other", 100)
    assert given_back["metadata"] == lease()["metadata"]


def test_our_own_lease_may_be_taken_at_once() -> None:
    assert may_take(sighted(None, lease("one"), 100), "one", 100)


@pytest.mark.parametrize("renewed", ["1970-01-01T00:00:00.000000Z", "2100-01-01T00:00:00.000000Z", None])
def test_another_s_lease_expires_by_our_clock_whatever_time_it_bears(renewed: str | None) -> None:
    seen = sighted(None, lease("one", renewTime=renewed), 100)
    assert not may_take(seen, "other", 100 + LEASE_SECONDS - 0.001)
    assert may_take(seen, "other", 100 + LEASE_SECONDS)


def test_a_lease_that_changes_is_seen_anew_and_one_that_does_not_is_not() -> None:
    first = sighted(None, lease(), 100)
    assert sighted(first, lease(), 107) is first
    changed = sighted(first, held_by(lease(), "one", LATER), 107)
    assert changed.since == 107
    assert not may_take(changed, "other", 115)


def test_the_longer_duration_counts() -> None:
    assert not may_take(sighted(None, lease(leaseDurationSeconds=60), 0), "other", 59)
    assert not may_take(sighted(None, lease(leaseDurationSeconds=1), 0), "other", 14)
    assert may_take(sighted(None, lease(leaseDurationSeconds=None), 0), "other", 15)


def test_a_holder_stops_before_another_may_begin() -> None:
    assert may_act(100.0, 100 + ACT_FOR - 0.001)
    assert not may_act(100.0, 100 + ACT_FOR)
    assert not may_act(None, 0)
    assert LEASE_SECONDS / ACT_FOR == 1.5, "clocks may differ by half"


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/managed-by": "Helm"}])
def test_a_lease_that_no_operator_made_is_known_by_its_labels(labels: dict[str, str] | None) -> None:
    assert is_operator_s(lease())
    assert not is_operator_s({"metadata": {"labels": labels}})


@pytest.mark.parametrize("found", [{}, {"spec": None}, {"spec": {"holderIdentity": None}}])
def test_an_empty_lease_is_nobody_s(found: dict[str, Any]) -> None:
    assert sighted(None, found, 0).holder == ""
    assert may_take(Sighting({}, 0), "one", 0)
