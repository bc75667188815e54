"""The validation of a pod's termination message."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import NOW, RESULT
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.decide import decide
from finetune_operator.core.observed.last_word import last_word
from finetune_operator.core.observed.text import MAX_LINE_BYTES, MAX_MESSAGE_BYTES
from finetune_operator.core.observed.views import JobView, Observed, PodView
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.transitions import notes
from finetune_operator.manifests.event import event
from finetune_trainer.contract import MAX_LOG_LINES

SETTINGS = Settings(image="trainer:test")


def said(**changes: Any) -> str:
    """Return a valid termination message with these changes."""
    result = json.loads(RESULT.to_json())
    told = {"podUid": "u", "index": 0, "attempt": 1, "nonce": "n", "exitCode": 76, "step": 3, "result": result}
    return json.dumps(told | changes)


def with_result(**changes: Any) -> str:
    return said(result=json.loads(RESULT.to_json()) | changes)


@pytest.mark.parametrize("job", ["bert-sk-sentiment-classification", "sk-learn-comparison-baseline-1"])
def test_a_result_is_believed_whatever_its_job_is_called(job: str) -> None:
    """The name begins with `sk-`, as some tokens do."""
    path = f"default/{job}/runs/1-2a27535b/output"
    word = last_word(with_result(path=path))
    assert word is not None
    assert word.result is not None
    assert word.result.path == path


def test_an_honest_word_is_believed() -> None:
    word = last_word(said(error="The data is bad.", log=["one", "two"], failingRank=3))
    assert word is not None
    assert (word.error, word.log, word.failing_rank, word.result) == ("The data is bad.", ("one", "two"), 3, RESULT)


def test_what_only_a_newer_image_says_is_left_out_and_the_rest_is_believed() -> None:
    word = last_word(said(error="Why.", contract=7, later={"a": 1}, result=json.loads(RESULT.to_json()) | {"later": 1}))
    assert word is not None
    assert (word.error, word.contract, word.result) == ("Why.", 7, RESULT)


def test_text_is_plain_and_bounded() -> None:
    word = last_word(said(error="\x1b[2J\u202eBad\n" + "x" * 5000, log=["\x1b[31m" + "y" * 5000] * 100))
    assert word is not None
    assert word.error == "Bad " + "x" * (MAX_MESSAGE_BYTES - 4)
    assert word.log == ("y" * MAX_LINE_BYTES,) * MAX_LOG_LINES


def test_credentials_are_redacted() -> None:
    word = last_word(said(error="https://me:pw@hub refused hf_" + "a" * 30, log=["password=hunter2"]))
    assert word is not None
    assert (word.error, word.log) == ("https://***@hub refused ***", ("password=***",))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "\ud800", "[" * 4000, said()[:-1], said(nonce=None)])
def test_anything_else_is_no_word(text: str | None) -> None:
    assert last_word(text) is None


@pytest.mark.parametrize(
    "changes",
    [{"step": -1}, {"step": 2**63}, {"step": 10**400}, {"exitCode": 2**31}, {"failingRank": -1},
    {"failingRank": 2**63}],
)  # fmt: skip
def test_figures_that_no_status_can_hold_make_it_worthless(changes: dict[str, Any]) -> None:
    assert last_word(said(**changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/etc"}, {"path": "../other/output"}, {"path": "a/../../b"}, {"path": ""}, {"path": "a\x1b[2J"},
        {"path": "a\u202eb"}, {"path": "x" * 2000}, {"mergedPath": "/etc"}, {"digest": "x"}, {"digest": "D" * 64},
        {"step": -1}, {"parameters": 2**63}, {"trainableParameters": -5},
        {"metrics": {"\x1b[2J": 1.0}}, {"baseMetrics": {"x" * 100: 1.0}}, {"metrics": {"a b": 1.0}},
    ],
)  # fmt: skip
def test_a_result_of_another_form_than_a_trainers_is_none(changes: dict[str, Any]) -> None:
    word = last_word(with_result(**changes))
    assert word is not None
    assert word.result is None


def test_the_reason_for_a_missing_merged_copy_is_plain_and_bounded() -> None:
    word = last_word(with_result(mergeFailure="\x1b[2Joutput.merge: hf_" + "a" * 30 + " " + "x" * 5000))
    assert word is not None
    assert word.result is not None
    reason = word.result.merge_failure or ""
    assert reason.startswith("output.merge: *** x")
    assert len(reason) == MAX_LINE_BYTES


def test_metrics_that_are_not_finite_pass_for_the_decision_to_leave_them_out() -> None:
    word = last_word(with_result(metrics={"f1": math.nan, "accuracy": math.inf}))
    assert word is not None
    assert word.result is not None


# ---- from the pod to the status -------------------------------------------------------------------------------------

PLANTED = "hf_PlantedPlantedPlanted12"
ANYWHERE = st.text(max_size=40).map(lambda text: f"{text} {PLANTED} {text}")


@given(error=ANYWHERE, line=ANYWHERE, reason=ANYWHERE, waiting=ANYWHERE, exit_code=st.sampled_from([1, 76, 80, 137]))
def test_no_planted_secret_reaches_status_or_events(
    error: str, line: str, reason: str, waiting: str, exit_code: int
) -> None:
    """The secrets are in texts from the pod, the kubelet or the controller."""
    pod = {
        "metadata": {"name": "p", "uid": "u", "labels": {"batch.kubernetes.io/job-completion-index": "0"}},
        "spec": {},
        "status": {
            "phase": "Failed",
            "containerStatuses": [
                {
                    "name": "trainer",
                    "state": {
                        "terminated": {
                            "exitCode": exit_code,
                            "reason": reason,
                            "message": said(exitCode=exit_code, error=error, log=[line]),
                        }
                    },
                }
            ],
        },
    }
    stuck = {
        "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": waiting}}}]
    }
    job = parse(manifest())
    started = decide(Observed(job, NOW, "n"), SETTINGS).status
    assert started is not None
    job = job.model_copy(update={"status": started})
    waits = Observed(job, NOW, "n", child(), (PodView.of(pod | {"status": stuck}),), refused=waiting)
    failed = Observed(job, NOW, "n", child(failed=True), (PodView.of(pod),))
    for observed in (waits, failed):
        status = decide(observed, SETTINGS).status
        assert status is not None
        assert "Planted" not in status.model_dump_json()
        told = [event({"metadata": {"name": "c", "namespace": "d", "uid": "u", "resourceVersion": "1"}}, note, NOW)
                for note in notes(started, status)]  # fmt: skip
        assert "Planted" not in json.dumps(told)


def child(failed: bool = False) -> JobView:
    uid = parse(manifest()).metadata.uid
    return JobView("j", uid, NOW, NOW if failed else None, "", frozenset(), 1, False)
