"""Decides which changes of a status are written at once, and which wait.

A transition (another phase, condition, attempt, ledger entry or result) is written at once. Other changes, such as
progress and the text of messages, are written once in an interval, however often the job is reconciled.
"""

from __future__ import annotations

from typing import Any

from finetune_operator.api.v1alpha1 import FineTuneJobStatus


def is_transition(old: FineTuneJobStatus, new: FineTuneJobStatus) -> bool:
    """Return whether more than progress and the text of messages has changed."""
    return _essence(old) != _essence(new)


def _essence(status: FineTuneJobStatus) -> tuple[Any, ...]:
    run = status.run and status.run.model_copy(update={"job_uid": None, "image_id": None})
    conditions = [(c.type, c.status, c.reason, c.observed_generation) for c in status.conditions]
    return (
        status.phase,
        status.observed_generation,
        conditions,
        run,
        status.ledger,
        status.ledger_dropped,
        status.result,
        status.evaluation,
    )
