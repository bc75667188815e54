"""Whether a job with a fault ended as it should."""

import math
from dataclasses import replace

import pytest
from fault_scoreboard.faults import fault_named
from fault_scoreboard.outcome import Ending, Equality, Model, compare, judge

UNDISTURBED = Model(loss=2.0, digest="a", finite=True)
KILLED, NAN, FROZEN = fault_named("rank-killed"), fault_named("nan-row"), fault_named("frozen-rank")


@pytest.mark.parametrize(
    ("model", "equality"),
    [
        (UNDISTURBED, Equality.BITS),
        (replace(UNDISTURBED, digest="b"), Equality.CLOSE),
        (replace(UNDISTURBED, digest="b", loss=2.0001), Equality.CLOSE),
        (replace(UNDISTURBED, digest="b", loss=2.001), Equality.DIFFERENT),
        (replace(UNDISTURBED, digest="b", finite=False), Equality.DIFFERENT),
        (replace(UNDISTURBED, digest="b", loss=math.nan), Equality.DIFFERENT),
        (None, Equality.NOT_COMPARED),
    ],
)
def test_models_are_compared_by_their_weights_and_then_by_loss(model: Model | None, equality: Equality) -> None:
    assert compare(model, UNDISTURBED) is equality


@pytest.mark.parametrize(
    ("equality", "right"), [(Equality.BITS, True), (Equality.CLOSE, True), (Equality.DIFFERENT, False)]
)
def test_a_job_that_finishes_must_have_the_undisturbed_model(equality: Equality, right: bool) -> None:
    assert judge(KILLED, Ending.FINISHED, UNDISTURBED, equality, "")[0] is right


@pytest.mark.parametrize("ending", [Ending.HUNG, Ending.GAVE_UP, Ending.STOPPED])
def test_a_job_that_could_go_on_must_finish(ending: Ending) -> None:
    assert not judge(KILLED, ending, None, Equality.NOT_COMPARED, "")[0]


def test_a_job_without_a_model_has_not_finished() -> None:
    assert judge(KILLED, Ending.FINISHED, None, Equality.NOT_COMPARED, "") == (False, "finished without a model")


@pytest.mark.parametrize("ending", [Ending.FINISHED, Ending.STOPPED])
@pytest.mark.parametrize(
    ("told", "right"),
    [("skipped rows.jsonl:137", True), ("rows.jsonl:1370", False), ("rows.jsonl:13", False), ("NaN", False)],
)
def test_a_row_that_spoils_the_loss_must_be_named(ending: Ending, told: str, right: bool) -> None:
    model = UNDISTURBED if ending is Ending.FINISHED else None
    assert judge(NAN, ending, model, Equality.NOT_COMPARED, told)[0] is right


def test_a_model_that_is_nan_is_wrong_whatever_was_told() -> None:
    spoilt = replace(UNDISTURBED, finite=False)
    right, why = judge(NAN, Ending.FINISHED, spoilt, Equality.NOT_COMPARED, "rows.jsonl:137")
    assert (right, why) == (False, "finished with a model that is NaN")


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ('{"slowestRank":1,"world":2}', True),
        ("exit code 79: rank 1 gave no sign of life", True),
        ('{"slowestRank":10}', False),
        ("rank 0 hung", False),
        ("[rank0]: RuntimeError: Timed out waiting 20000ms for recv operation to complete", False),
    ],
)
def test_the_frozen_rank_must_be_named(told: str, right: bool) -> None:
    assert judge(FROZEN, Ending.FINISHED, UNDISTURBED, Equality.BITS, told)[0] is right
