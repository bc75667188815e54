"""Pods that were asked to stop and have not ended: they agree on a step and save it, so they are given their grace.

A next attempt that begins meanwhile would take the storage from them, and train again what they were about to save.
Nobody waits where nothing is saved: when a pod failed by itself or its node is gone, its siblings leave at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import ExitCode

AFTER_GRACE = 5.0
"""Seconds from SIGKILL until the API server knows."""


def seconds_until_stopped(pods: Iterable[PodView], settle: float, now: datetime) -> float:
    """How long to wait at most, 0 or less if not at all. When the first has ended the others are about to: they have
    agreed on the step after which all end."""
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
    """Without success, and not on request."""
    return pod.failed and pod.told_code != ExitCode.PREEMPTED and pod.deleted is None


def _may_be_saving(pod: PodView) -> bool:
    return pod.present and pod.running and pod.exit_code is None
