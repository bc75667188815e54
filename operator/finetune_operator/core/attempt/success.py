"""Judges whether an attempt is a success.

It is one if every index is complete, every rank attested what was asked for, and rank 0 left a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.observed.views import JobView, LookJobView, PodView
from finetune_trainer.contract import FailureClass, Result


@dataclass(frozen=True)
class Verdict:
    """The verdict on an attempt whose pods have all ended well.

    It has a result, or a fault that says why there is none, or `is_in_workspace`: rank 0's pod no longer exists, and
    its last message, which names the result, must be read from the workspace by a look Job (`manifests/look_job.py`).
    """

    result: Result | None = None
    fault: str = ""
    failure: FailureClass = FailureClass.MISMATCH
    is_in_workspace: bool = False


def judge(run: RunStatus, child: JobView, pods: tuple[PodView, ...], look: LookJobView | None = None) -> Verdict | None:
    """Judge an attempt; return None while an index has not completed.

    `look` is the Job that reads rank 0's last message from the workspace, if it exists.
    """
    if not is_complete(run, child, pods):
        return None
    ended = [pod for pod in pods if pod.exit_code == 0]
    if silent := next((pod for pod in ended if pod.message is None), None):
        return Verdict(fault=f"pod {silent.index} ended well without a word of what it did")
    messages = {pod.index: pod.message for pod in ended if pod.message}
    if 0 not in messages:
        if look is None or not look.ended:
            return Verdict(is_in_workspace=True)
        if look.message is None:
            fault = "all pods ended well, but rank 0's pod is gone, and its last message was not found in the workspace"
            return Verdict(fault=fault, failure=FailureClass.UNKNOWN)
        messages[0] = look.message
    for index, message in sorted(messages.items(), key=lambda item: item[0] or 0):
        attested = (message.nonce, message.world, message.config_digest)
        if attested != (run.nonce, run.world, run.config_digest):
            found = f"world {message.world} and configuration {(message.config_digest or 'none')[:12]}"
            wanted = f"world {run.world} and configuration {(run.config_digest or 'none')[:12]}"
            return Verdict(fault=f"pod {index} ended well but attested {found} instead of {wanted}")
    result = messages[0].result
    return Verdict(result) if result else Verdict(fault="all pods ended well but rank 0 left no result")


def is_complete(run: RunStatus, child: JobView, pods: tuple[PodView, ...]) -> bool:
    """Return whether every index of an attempt has ended well.

    The Job reports the complete indexes. It omits an index while another container of its pod runs, or if the pod fails
    although its trainer exited with 0, because it was evicted at that moment or another container failed. In these
    cases the exit code of the trainer's container counts.
    """
    by_trainer = {pod.index for pod in pods if pod.exit_code == 0 and (pod.others or pod.phase == "Failed")}
    return child.succeeded | by_trainer >= frozenset(range(run.nodes))


def lacks_result(run: RunStatus, child: JobView, pods: tuple[PodView, ...]) -> bool:
    """Return whether all pods of an attempt ended well, but rank 0's pod is gone and its message was not seen."""
    return is_complete(run, child, pods) and not any(pod.index == 0 and pod.exit_code == 0 for pod in pods)
