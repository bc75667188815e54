"""The values of the condition TrainingHealthy."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.v1alpha1 import CheckpointStatus, LedgerEntry, ProgressStatus, SlowestStatus
from finetune_operator.core.status import health
from finetune_trainer.contract import PodStatus, Progress

PROGRESS = ProgressStatus(step=9, total_steps=30, epoch=0.3)
SLOW = SlowestStatus(rank=3, pod="p-1", node="n1", times=2.5)
FAILING = CheckpointStatus(step=5, time="2026-01-01T00:00:00Z", bytes=1, save_seconds=1, failure="runs/1/x: no room")


def told(progress: ProgressStatus = PROGRESS, newest: CheckpointStatus | None = None, **figures: Any) -> Any:
    said = Progress(**{"step": 9, "total_steps": 30, "epoch": 0.3, **figures})
    return health.while_training(
        [PodStatus(pod_uid="u", attempt=1, nonce="n", index=0, progress=said)], progress, newest
    )


def test_steps_that_are_made_are_healthy_and_what_is_over_is_remembered() -> None:
    assert told()[:2] == ("True", health.constants.HEALTHY)
    after = told(PROGRESS.model_copy(update={"skipped_steps": 2, "loss_spikes": 1}), skipped_steps=2)
    assert (after.truth, after.message) == (
        "True", "The weights change with every step; so far 2 steps skipped, 1 loss spikes",
    )  # fmt: skip


def test_of_several_troubles_the_worst_is_told() -> None:
    slow = PROGRESS.model_copy(update={"slowest": SLOW})
    assert told(slow, FAILING, skipped_steps=4, skipped_in_row=3).reason.name == "Diverging"
    failing = told(slow, FAILING)
    assert (failing.reason.name, "of step 5: runs/1/x: no room" in failing.message) == ("CheckpointFailing", True)
    straggling = told(slow)
    assert straggling.truth == "False"
    assert straggling.message.startswith("Rank 3 (pod p-1, node n1) needs 2.5 times as long")


def test_a_first_checkpoint_that_fails_is_told_as_such() -> None:
    assert "there is none yet: runs/1/x" in told(newest=FAILING.model_copy(update={"step": 0})).message


def test_without_rank_0_s_word_nothing_new_is_known() -> None:
    assert health.while_training([], PROGRESS, None) is None


def entry(class_: str) -> LedgerEntry:
    time = "2026-01-01T00:00:00Z"
    return LedgerEntry(run=1, attempt=2, class_=class_, message="why", start_time=time, end_time=time)


def test_a_hang_and_a_divergence_are_told_after_their_attempt_and_nothing_of_others() -> None:
    assert health.after_attempt(entry("Hung"))[:1] + health.after_attempt(entry("Hung"))[2:] == (
        "False", "Attempt 2 of run 1 hung: why",
    )  # fmt: skip
    assert health.after_attempt(entry("Diverged")).reason.name == "Diverged"
    assert health.after_attempt(entry("Preempted")) == health.NOT_TRAINING
