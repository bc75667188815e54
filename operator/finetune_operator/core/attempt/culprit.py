"""Finds the pod that failed first, when the pod that reports the failure only noticed it.

A node that loses power takes its pod's termination message with it. The messages of the surviving pods arrive a minute
later: they waited for a rank, or a connection to it was closed. The ledger names the node of the pod that they refer
to, because the next attempt may avoid that node.
"""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import CLASS_OF_EXIT_CODE


def culprit(witness: PodView, pods: Iterable[PodView], ranks_per_pod: int) -> PodView | None:
    """Return the pod that a failed pod's message is about: itself, unless it only noticed another failure.

    Return None if it noticed another failure and it is unknown whose. These are tried in order: the pod of the rank
    that all waited for; a pod without a message whose node is lost; the only pod without a message.
    """
    others = sorted((pod for pod in pods if pod.uid != witness.uid), key=lambda pod: not pod.present)
    word = witness.message
    if word is not None and word.slowest_rank is not None:
        index = word.slowest_rank // ranks_per_pod
        return witness if index == witness.index else next((pod for pod in others if pod.index == index), None)
    if not others:
        return witness
    silent = [pod for pod in others if pod.present and pod.exit_code is None and pod.message is None]
    lost = [pod for pod in silent if pod.on_lost_node]
    heard = only_heard(witness)
    if lost and (heard or witness.told_code not in CLASS_OF_EXIT_CODE):
        return lost[0]
    if heard:
        return silent[0] if len(silent) == 1 else None
    return witness


def only_heard(pod: PodView) -> bool:
    """Return whether a pod reports an error but not its time, because it noticed another pod's failure."""
    return pod.message is not None and pod.message.error is not None and pod.message.error_time is None
