"""The newest checkpoint, and what the next attempt does with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW

from finetune_operator.api.v1alpha1 import CheckpointStatus, ProgressStatus
from finetune_operator.core.attempt import checkpoint
from finetune_operator.core.attempt.checkpoint import LEAST_GRACE, MOST_GRACE
from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import CheckpointReport, PodStatus, TerminationMessage

REPORT = CheckpointReport(step=20, time=1_800_000_000.5, bytes=12, save_seconds=2.34567, request="r", failure=None)
STATUS = CheckpointStatus(step=20, time="2027-01-15T08:00:00Z", bytes=12, save_seconds=2.35, request="r")


def answer(**changes: Any) -> PodStatus:
    return PodStatus(**{"pod_uid": "u", "attempt": 1, "nonce": "n", "index": 0, **changes})


def test_rank_0_s_newest_word_counts_though_it_tells_of_an_older_one() -> None:
    older = REPORT.model_copy(update={"step": 10})
    assert checkpoint.newest([answer(), answer(checkpoint=older)], STATUS) == STATUS.model_copy(update={"step": 10})
    assert checkpoint.newest([answer(index=1)], STATUS) is STATUS
    assert checkpoint.newest([], None) is None
    assert checkpoint.newest([answer(checkpoint=REPORT)], None) == STATUS


def test_the_last_word_of_rank_0_s_pod_tells_of_the_last_one() -> None:
    word = TerminationMessage(pod_uid="u", index=0, attempt=1, nonce="n", exit_code=75, checkpoint=REPORT)
    pods = [PodView("v", "p-1", 1, None), PodView("u", "p-0", 0, None, message=word)]
    assert checkpoint.last(pods, None) == STATUS
    assert checkpoint.last(pods[:1], STATUS) is STATUS


def test_of_two_pods_of_a_job_that_was_suspended_and_resumed_the_last_one_tells() -> None:
    older = TerminationMessage(pod_uid="u", index=0, attempt=1, nonce="n", exit_code=75, checkpoint=REPORT)
    newer = older.model_copy(update={"checkpoint": REPORT.model_copy(update={"step": REPORT.step + 1})})
    first = PodView("u", "p-0-a", 0, None, message=older, ended=NOW)
    second = PodView("w", "p-0-b", 0, None, message=newer, ended=NOW + timedelta(seconds=9))
    told = checkpoint.last([first, second], None)
    assert told is not None
    assert told.step == REPORT.step + 1


def test_what_a_pod_says_of_a_failure_is_made_plain_and_short() -> None:
    told = REPORT.model_copy(update={"failure": "\x1b[31mno room\n" + 2000 * "x", "request": "a\u202eb"})
    status = checkpoint.as_status(told)
    assert status.failure is not None
    assert status.failure.startswith("no room x")
    assert len(status.failure) <= 512
    assert status.request == "ab"


@pytest.mark.parametrize(
    ("save", "step", "grace"),
    [
        (60.2, 4.0, 125),
        (1.0, 0.5, LEAST_GRACE),
        (1.0, None, LEAST_GRACE),
        (0.0, 100.0, 100),
        (10.0**6, 1.0, MOST_GRACE),
    ],
)
def test_the_grace_is_two_saves_and_a_step(save: float, step: float | None, grace: int) -> None:
    progress = ProgressStatus(step=1, total_steps=2, epoch=0.5, step_seconds=step)
    assert checkpoint.grace(STATUS.model_copy(update={"save_seconds": save}), progress) == grace


def test_without_a_checkpoint_no_grace_is_known_and_the_start_is_the_beginning() -> None:
    failed = STATUS.model_copy(update={"step": 0, "failure": "no room"})
    for nothing in (None, failed):
        assert checkpoint.grace(nothing, None) is None
        assert checkpoint.start(nothing) == "the beginning"
    assert checkpoint.start(STATUS) == "step 20"
