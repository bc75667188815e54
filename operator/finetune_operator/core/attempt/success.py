"""When an attempt is a success: every index complete, every rank attested what was asked for, and a result."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.observed.views import JobView, PodView
from finetune_trainer.contract import FailureClass, Result


@dataclass(frozen=True)
class Verdict:
    """Of an attempt whose pods have all ended well: a result, or why it is none."""

    result: Result | None
    fault: str = ""
    failure: FailureClass = FailureClass.MISMATCH


def judge(run: RunStatus, child: JobView, pods: tuple[PodView, ...]) -> Verdict | None:
    """None as long as an index is missing.

    An index whose pod is gone counts by the Job's completedIndexes; rank 0's word is needed for the result.
    """
    if child.succeeded != frozenset(range(run.nodes)):
        return None
    ended = [pod for pod in pods if pod.exit_code == 0]
    if silent := next((pod for pod in ended if pod.message is None), None):
        return Verdict(None, f"pod {silent.index} ended well without a word of what it did")
    words = {pod.index: pod.message for pod in ended if pod.message}
    for index, word in sorted(words.items(), key=lambda item: item[0] or 0):
        if word.nonce != run.nonce or word.world != run.world or word.config_digest != run.config_digest:
            found = f"world {word.world} and configuration {(word.config_digest or 'none')[:12]}"
            wanted = f"world {run.world} and configuration {(run.config_digest or 'none')[:12]}"
            return Verdict(None, f"pod {index} ended well but attested {found} instead of {wanted}")
    if not any(pod.index == 0 for pod in pods):
        fault = "all pods ended well, but rank 0's pod is gone and with it the word on its result"
        return Verdict(None, fault, FailureClass.UNKNOWN)
    first = words.get(0)
    if first is None or first.result is None:
        return Verdict(None, "all pods ended well but rank 0 left no result")
    return Verdict(first.result)
