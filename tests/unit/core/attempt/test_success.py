"""When an attempt is a success."""

from __future__ import annotations

from typing import Any

from support.clusters import NOW, RESULT
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.attempt.success import Verdict, judge
from finetune_operator.core.observed.views import JobView, PodView
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


def test_without_rank_0s_word_nothing_is_known_of_the_result() -> None:
    gone = judged(pod(1))
    assert (gone.result, gone.failure) == (None, FailureClass.UNKNOWN)
    empty = judged(pod(0, result=None), pod(1))
    assert "left no result" in empty.fault
