"""Which changes of the status are written immediately and which are delayed."""

from __future__ import annotations

from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import Condition, FineTuneJobStatus, LedgerEntry, ProgressStatus
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.cadence import is_transition

RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "n", NOW)
READY = Condition(
    type="Ready", status="False", reason="Training", message="a", last_transition_time="t", observed_generation=1
)
STATUS = FineTuneJobStatus(run=RUN, phase="Training", observed_generation=1, conditions=[READY])
ENTRY = LedgerEntry(run=1, attempt=1, class_="Success", message="", start_time="t", end_time="t")


def changed(**update: Any) -> FineTuneJobStatus:
    return STATUS.model_copy(update=update)


@pytest.mark.parametrize(
    "after",
    [
        changed(progress=ProgressStatus(step=2, total_steps=9, epoch=0.1)),
        changed(conditions=[READY.model_copy(update={"message": "b"})]),
        changed(run=RUN.model_copy(update={"job_uid": "j", "image_id": "i"})),
    ],
)
def test_progress_words_and_what_was_seen_of_the_children_wait(after: FineTuneJobStatus) -> None:
    assert not is_transition(STATUS, after)


@pytest.mark.parametrize(
    "after",
    [
        changed(phase="Exporting"),
        changed(observed_generation=2),
        changed(conditions=[READY.model_copy(update={"status": "True"})]),
        changed(conditions=[READY.model_copy(update={"reason": "Starting"})]),
        changed(run=RUN.model_copy(update={"attempt": 2})),
        changed(ledger=[ENTRY]),
        changed(ledger_dropped=1),
    ],
)
def test_a_transition_is_written_at_once(after: FineTuneJobStatus) -> None:
    assert is_transition(STATUS, after)
