"""The conditions of a FineTuneJob, kstatus's three and our own, as a table of phases."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from finetune_operator.api.v1alpha1 import Condition
from finetune_operator.constants import ConditionType, Phase
from finetune_operator.core.times import to_text

Truth = Literal["True", "False", "Unknown"]

_TRUE_IN: dict[ConditionType, frozenset[Phase]] = {
    ConditionType.READY: frozenset({Phase.COMPLETE}),
    ConditionType.RECONCILING: frozenset(set(Phase) - {Phase.COMPLETE, Phase.FAILED, Phase.SUSPENDED}),
    ConditionType.STALLED: frozenset({Phase.FAILED}),
    ConditionType.TRAINING: frozenset({Phase.TRAINING}),
    ConditionType.COMPLETE: frozenset({Phase.COMPLETE}),
    ConditionType.FAILED: frozenset({Phase.FAILED}),
    ConditionType.SUSPENDED: frozenset({Phase.SUSPENDED}),
}


def set_condition(
    conditions: list[Condition],
    kind: ConditionType,
    truth: Truth,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the list with one condition set; its transition time changes only with its status."""
    earlier = next((c for c in conditions if c.type == kind), None)
    since = earlier.last_transition_time if earlier and earlier.status == truth else to_text(now)
    new = Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    return [new if c is earlier else c for c in conditions] + ([] if earlier else [new])


def for_phase(
    conditions: list[Condition], phase: Phase, reason: str, message: str, generation: int, now: datetime
) -> list[Condition]:
    """Return the list with all conditions that follow from the phase.

    WorldReady and TrainingHealthy depend on other facts and are not among them.
    """
    for kind, phases in _TRUE_IN.items():
        truth: Truth = "True" if phase in phases else "False"
        conditions = set_condition(conditions, kind, truth, reason, message, generation, now)
    return conditions


def stalled(conditions: list[Condition], reason: str, message: str, generation: int, now: datetime) -> list[Condition]:
    """Return the list for a job that cannot go on until somebody acts, though no run has failed."""
    for kind, truth in _STALLED.items():
        conditions = set_condition(conditions, kind, truth, reason, message, generation, now)
    return conditions


_STALLED: dict[ConditionType, Truth] = {
    ConditionType.READY: "False",
    ConditionType.RECONCILING: "False",
    ConditionType.STALLED: "True",
}


def is_true(conditions: list[Condition], kind: ConditionType) -> bool:
    """Return whether a condition exists and is true."""
    return any(c.type == kind and c.status == "True" for c in conditions)
