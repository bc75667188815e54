"""Decides when the children of an ended run are deleted; the FineTuneJob and the files of its runs always stay."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.times import from_text


def seconds_left(run: RunStatus, ttl_seconds: int | None, now: datetime) -> float | None:
    """Return the seconds until the children are deleted, 0 or less if it is time; None if they stay.

    The result depends on the status alone, so a restart of the operator loses no timer.
    """
    if ttl_seconds is None or run.completion_time is None:
        return None
    return (from_text(run.completion_time) + timedelta(seconds=ttl_seconds) - now).total_seconds()
