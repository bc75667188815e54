"""When the children of a run that has ended go. The FineTuneJob and the files of its runs always stay."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.core.times import from_text


def seconds_left(run: RunStatus, ttl_seconds: int | None, now: datetime) -> float | None:
    """0 or less: they go now. None: they stay. From the status alone: a restart of the operator loses no timer."""
    if ttl_seconds is None or run.completion_time is None:
        return None
    return (from_text(run.completion_time) + timedelta(seconds=ttl_seconds) - now).total_seconds()
