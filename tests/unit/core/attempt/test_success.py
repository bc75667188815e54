"""The conditions under which an attempt is a success."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.clusters import NOW, RESULT
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.attempt.success import Verdict, judge, lacks_result
from finetune_operator.core.observed.views import JobView, LookJobView, PodView
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import FailureClass, TerminationMessage

TWO_NODES = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}, "metadata.uid": "0b5e7d2a"}
RUN = next_run(parse(manifest(**TWO_NODES)), 1, Settings(image="i"), "n", NOW)


def pod(index: int, exit_code: int | None = 0, silent: bool = False, **said: Any) -> PodView:
    fields = {
        "pod_uid": f"u{index}", "index": index, "attempt": 1, "nonce": "n", "exit_code": exit_code or 0,
        "world": RUN.world, "config_digest": RUN.config_digest, "result": RESULT if index == 0 else None, **said,
    }  # fmt: skip
    message = None if silent or exit_code is None else TerminationMessage(**fields)
    return PodView(f"u{index}", f"pod-{index}", index, "j", exit_code=exit_code, message=message)


def judged(*pods: PodView) -> Verdict:
    verdict = judge(RUN, child(0, 1), pods)
    assert verdict is not None
    return verdict


def child(*succeeded: int) -> JobView:
    return JobView("j", "o", NOW, None, "", frozenset(succeeded), 2, False)


def test_all_indexes_with_the_right_words_are_a_success() -> None:
    verdict = judged(pod(0), pod(1))
    assert verdict.result == RESULT


def test_nothing_is_judged_while_an_index_is_missing() -> None:
    assert judge(RUN, child(0), (pod(0), pod(1, None))) is None


def test_a_pod_that_is_gone_counts_by_the_jobs_completed_indexes() -> None:
    assert judged(pod(0)).result


def test_a_pod_that_ended_with_0_and_without_a_word_is_no_success() -> None:
    verdict = judged(pod(0), pod(1, silent=True))
    assert verdict.result is None
    assert verdict.failure is FailureClass.MISMATCH
    assert "pod 1 ended well without a word" in verdict.fault


def test_a_rank_that_attests_another_world_is_no_success() -> None:
    verdict = judged(pod(0), pod(1, world=1))
    assert verdict.result is None
    assert "attested world 1" in verdict.fault


def test_rank_0_must_leave_a_result() -> None:
    empty = judged(pod(0, result=None), pod(1))
    assert "left no result" in empty.fault


GONE = replace(pod(0, None), present=False)
"""Rank 0's pod, which disappeared before its end was observed."""


@pytest.mark.parametrize("pods", [(pod(1),), (), (GONE, pod(1))])
def test_the_result_of_a_pod_that_is_gone_is_looked_for_in_the_workspace(pods: tuple[PodView, ...]) -> None:
    assert lacks_result(RUN, child(0, 1), pods)
    assert judge(RUN, child(0, 1), pods) == Verdict(is_in_workspace=True)
    assert judge(RUN, child(0, 1), pods, LookJobView("o", False, None)) == Verdict(is_in_workspace=True)


def test_nothing_is_looked_for_while_an_index_is_missing_or_when_rank_0_has_spoken() -> None:
    assert not lacks_result(RUN, child(1), (pod(1),))
    assert not lacks_result(RUN, child(0, 1), (pod(0), pod(1)))


def test_what_the_workspace_holds_is_judged_like_the_pods_own_message() -> None:
    read = LookJobView("o", True, pod(0).message)
    assert judge(RUN, child(0, 1), (pod(1),), read) == Verdict(RESULT)
    other = LookJobView("o", True, pod(0, nonce="another").message)
    verdict = judge(RUN, child(0, 1), (pod(1),), other)
    assert verdict is not None
    assert (verdict.result, verdict.failure) == (None, FailureClass.MISMATCH)


def test_a_result_that_is_nowhere_is_of_unknown_class() -> None:
    verdict = judge(RUN, child(0, 1), (pod(1),), LookJobView("o", True, None))
    assert verdict is not None
    assert (verdict.result, verdict.failure) == (None, FailureClass.UNKNOWN)
    assert "was not found in the workspace" in verdict.fault


def with_sidecar(of: PodView, phase: str) -> PodView:
    return replace(of, phase=phase, others=1, others_running=int(phase == "Running"))


@pytest.mark.parametrize("phase", ["Running", "Failed", "Succeeded"])
def test_an_injected_sidecar_changes_nothing_in_what_the_trainer_has_done(phase: str) -> None:
    """The Job counts no index as complete while its pod runs or if its pod has failed."""
    pods = (with_sidecar(pod(0), phase), with_sidecar(pod(1), phase))
    assert judge(RUN, child(), pods) == Verdict(RESULT)


def test_a_pod_that_was_evicted_when_its_trainer_had_ended_is_done() -> None:
    pods = (replace(pod(0), phase="Failed", disrupted="TerminationByKubelet: shutdown"), pod(1))
    assert judge(RUN, child(1), pods) == Verdict(RESULT)


def test_a_pod_without_other_containers_is_judged_when_its_job_counts_it() -> None:
    """The pod's phase changes a moment later. If the Job were deleted before that, the log would be lost."""
    assert judge(RUN, child(), (pod(0), pod(1))) is None
