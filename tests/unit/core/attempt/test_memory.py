"""The next attempt's plan after memory ran out."""

from __future__ import annotations

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.attempt.memory import smaller
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings

RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)


def test_the_first_plan_has_half_the_rows_and_says_what_that_means() -> None:
    plan = smaller(RUN, 8)
    assert plan is not None
    assert (plan.micro_batch_size, plan.activation_checkpointing) == (4, False)
    assert "4 instead of 8 rows" in plan.sentence
    assert "with dropout another draw of the same objective" in plan.sentence


def test_a_single_row_goes_to_activations_at_once() -> None:
    plan = smaller(RUN, 1)
    assert plan is not None
    assert (plan.micro_batch_size, plan.activation_checkpointing) == (1, True)


def test_there_is_a_smallest_plan() -> None:
    assert smaller(RUN.model_copy(update={"micro_batch_size": 1, "activation_checkpointing": True}), 1) is None
