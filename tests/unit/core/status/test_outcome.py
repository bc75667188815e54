"""The condition, the event and the progress report which model is the result and why the training ended."""

from __future__ import annotations

import pytest
from support.clusters import NOW, RESULT
from unit.core.test_decide import child, ended_well, job, started

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, ProgressStatus
from finetune_operator.core.decide import decide
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.transitions import notes
from finetune_trainer.contract import Result

LAST = "Run 1 is complete; the model is at default/clauses/runs/1-x/output"
BEST = (
    "Run 1 is complete; of 30 steps, the model of step 20 is kept, which evaluated best; the model is at "
    "default/clauses/runs/1-x/output"
)
EARLY = (
    "Run 1 is complete; it stopped early after step 30, because evaluations no longer improved; of 30 steps, the model "
    "of step 20 is kept, which evaluated best; the model is at default/clauses/runs/1-x/output"
)


def complete(result: Result) -> tuple[FineTuneJobStatus, FineTuneJobStatus]:
    """Return the status before and after the end of a run of 50 steps."""
    before = started()
    before = before.model_copy(update={"progress": ProgressStatus(step=29, total_steps=50, epoch=1.0)})
    pods = (ended_well(before, result),)
    after = decide(
        Observed(job(before), NOW, "n", child(succeeded=frozenset({0})), pods), Settings(image="trainer:1")
    ).status
    assert after is not None
    return before, after


@pytest.mark.parametrize(
    ("changes", "message", "total_steps"),
    [
        ({}, LAST, 30),
        ({"step": 20, "last_step": 30}, BEST, 30),
        ({"step": 20, "last_step": 30, "stopped_early": True}, EARLY, 50),
    ],
    ids=["the last", "the best", "the best of a training that stopped early"],
)
def test_the_condition_and_the_event_say_which_model_is_kept_and_why_it_ended(
    changes: dict[str, object], message: str, total_steps: int
) -> None:
    before, after = complete(RESULT.model_copy(update=changes))
    assert next(each.message for each in after.conditions if each.type == "Complete") == message
    assert [note.message for note in notes(before, after)] == [message]
    assert after.progress is not None
    assert (after.progress.step, after.progress.total_steps) == (30, total_steps)
    assert after.ledger[-1].step == 30
