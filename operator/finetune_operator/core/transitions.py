"""Which events a change of status is worth: one for each condition that became true, none for progress."""

from __future__ import annotations

from typing import Literal, NamedTuple

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import ConditionType

_TOLD: dict[str, Literal["Normal", "Warning"]] = {
    ConditionType.WORLD_READY: "Normal",
    ConditionType.TRAINING: "Normal",
    ConditionType.COMPLETE: "Normal",
    ConditionType.STALLED: "Warning",
}


class Note(NamedTuple):
    """What an event says."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def notes(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Note]:
    """For the conditions that are true now and were not, or not for this reason."""
    told = []
    for condition in new.conditions:
        kind = _TOLD.get(condition.type)
        if kind is None or condition.status != "True":
            continue
        earlier = next((c for c in old.conditions if c.type == condition.type), None)
        if earlier and earlier.status == "True" and earlier.message == condition.message:
            continue
        told.append(Note(kind, condition.reason, condition.message))
    return told
