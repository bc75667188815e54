"""How long the next attempt waits for pods that are stopping."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW

from finetune_operator.core.attempt.stopping import AFTER_GRACE, seconds_until_stopped
from finetune_operator.core.observed.views import PodView


def pod(index: int, **facts: Any) -> PodView:
    return PodView(
        **{"uid": f"u{index}", "name": f"p-{index}", "index": index, "owner_uid": "j", "running": True, **facts}
    )


def stopping(index: int, seconds: float = 60, **facts: Any) -> PodView:
    return pod(index, deleted=NOW, grace_ends=NOW + timedelta(seconds=seconds), **facts)


def wait(*pods: PodView, after: float = 0) -> float:
    return seconds_until_stopped(pods, settle=5, now=NOW + timedelta(seconds=after))


def test_pods_that_were_asked_to_stop_have_their_grace() -> None:
    assert wait(stopping(0), stopping(1, 90)) == 90 + AFTER_GRACE
    assert wait(stopping(0), after=70) < 0
    assert wait(pod(0), pod(1)) == 0


def test_when_one_has_ended_the_others_are_about_to() -> None:
    ended = stopping(1, running=False, exit_code=75, ended=NOW + timedelta(seconds=10))
    assert wait(stopping(0), ended, after=12) == 3
    assert wait(stopping(0), ended, after=20) < 0


@pytest.mark.parametrize(
    "sibling",
    [
        pod(1, running=False, exit_code=1, phase="Failed", ended=NOW),
        stopping(1, disrupted="DeletionByTaintManager: Taint manager: deleting due to NoExecute taint"),
    ],
    ids=["failed by itself", "on a lost node"],
)
def test_nobody_waits_where_nothing_is_saved(sibling: PodView) -> None:
    assert wait(stopping(0), sibling) == 0


@pytest.mark.parametrize("facts", [{"present": False}, {"running": False}, {"running": False, "exit_code": 75}])
def test_a_pod_that_is_gone_or_never_ran_saves_nothing(facts: dict[str, Any]) -> None:
    assert wait(stopping(0, **facts)) == 0
