"""Derives the events that a change of status causes.

There is one event for each reason in EVENTS that a true condition has now and had not before. Progress causes no event.
A message that changes while its reason stays causes none either, if its text comes from others: otherwise the numbers
of a quota would cause an event every minute. The events follow from the two statuses alone, so an operator that
restarts repeats none. A job that alternates between two states causes equal events, and their equal name makes them
one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import ConditionType, Reason
from finetune_operator.core.status.conditions import is_true

EventType = Literal["Normal", "Warning"]

EVENTS: dict[Reason, EventType] = {
    constants.WORLD_READY: "Normal",
    constants.TRAINING: "Normal",
    constants.READING_RESULT: "Normal",
    constants.COMPLETE: "Normal",
    constants.SUSPENDED: "Normal",
    constants.RESUMED: "Normal",
    constants.MADE_AGAIN: "Warning",
    constants.NOT_MADE_AGAIN: "Warning",
    constants.RESTARTING: "Warning",
    constants.VOLUME_ATTACHED_ELSEWHERE: "Warning",
    constants.FAILED: "Warning",
    constants.INVALID_SPEC: "Warning",
    constants.INVALID_STATUS: "Warning",
    constants.NAME_CONFLICT: "Warning",
    constants.VOLUME_NOT_SHARED: "Warning",
    constants.CLAIM_NOT_FOUND: "Warning",
    constants.CLAIM_BEING_DELETED: "Warning",
    constants.CLAIM_LOST: "Warning",
    constants.REFUSED: "Warning",
}
"""The type of the event for each reason that causes one.

The end of an attempt is reported as Restarting or, if it was the last one, as Failed; both name the class.
"""

_TYPES: dict[str, EventType] = {reason.name: kind for reason, kind in EVENTS.items()}
_IN_WORDS_OF_OTHERS = frozenset({constants.REFUSED.name})


class Note(NamedTuple):
    """The content of an event."""

    type: EventType
    reason: str
    message: str


def note(reason: Reason, **words: object) -> Note:
    """Return an event that follows from no change of a status."""
    return Note(EVENTS[reason], reason.name, reason.message.format(**words))


def notes(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Note]:
    """Return the events about what happened between two statuses."""
    before, now = _true(old), _true(new)
    if _resumed(old, new) and new.run:
        words = {"attempt": new.run.attempt, "run": new.run.number}
        now = {constants.RESUMED.name: constants.RESUMED.message.format(**words), **now}
    return [
        Note(_TYPES[reason], reason, message)
        for reason, message in now.items()
        if reason in _TYPES and _is_news(before.get(reason), reason, message)
    ]


def _true(status: FineTuneJobStatus) -> dict[str, str]:
    """Return the message of each reason that a true condition has."""
    known = frozenset(ConditionType)
    return {c.reason: c.message for c in status.conditions if c.status == "True" and c.type in known}


def _resumed(old: FineTuneJobStatus, new: FineTuneJobStatus) -> bool:
    suspended = (is_true(status.conditions, ConditionType.SUSPENDED) for status in (old, new))
    return tuple(suspended) == (True, False) and is_true(new.conditions, ConditionType.RECONCILING)


def _is_news(before: str | None, reason: str, message: str) -> bool:
    return before is None or (before != message and reason not in _IN_WORDS_OF_OTHERS)
