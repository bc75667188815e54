"""Waits for pods that were asked to stop and have not ended yet.

Such pods agree on a step and save it, so they are given their grace period. If the next attempt began meanwhile, it
would take the storage from them and repeat what they were about to save. When a pod failed by itself or its node is
lost, nothing is saved and the other pods exit at once, so there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import ExitCode

AFTER_GRACE = 5.0
"""Seconds after SIGKILL until the API server reports the end."""


def seconds_until_stopped(pods: Iterable[PodView], settle: float, now: datetime) -> float:
    """Return the longest time to wait in seconds; 0 or less if there is nothing to wait for.

    Once the first pod has ended, the others are about to end, because all agreed on the step after which they end.
    """
    pods = list(pods)
    if any(_failed_by_itself(pod) or pod.on_lost_node for pod in pods):
        return 0
    deadlines = [pod.grace_ends for pod in pods if pod.grace_ends and _may_be_saving(pod)]
    if not deadlines:
        return 0
    left = AFTER_GRACE + (max(deadlines) - now).total_seconds()
    ended = [pod.ended for pod in pods if pod.ended]
    return min(left, settle - (now - min(ended)).total_seconds()) if ended else left


def _failed_by_itself(pod: PodView) -> bool:
    """Return whether the pod failed without having been asked to stop."""
    return pod.failed and pod.told_code != ExitCode.PREEMPTED and pod.deleted is None


def _may_be_saving(pod: PodView) -> bool:
    return pod.present and pod.running and pod.exit_code is None
