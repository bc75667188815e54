from datetime import timedelta

import pytest
from support.clusters import NOW

from finetune_operator.constants import ConditionType, Phase
from finetune_operator.core.status.conditions import for_phase, set_condition, stalled

LATER = NOW + timedelta(minutes=1)


def test_the_transition_time_changes_only_with_the_truth() -> None:
    first = set_condition([], ConditionType.READY, "False", "A", "a", 1, NOW)
    second = set_condition(first, ConditionType.READY, "False", "B", "b", 2, LATER)
    third = set_condition(second, ConditionType.READY, "True", "C", "c", 2, LATER)
    assert second[0].last_transition_time == first[0].last_transition_time
    assert (second[0].reason, second[0].observed_generation) == ("B", 2)
    assert third[0].last_transition_time == "2026-01-01T00:01:00Z"


@pytest.mark.parametrize("phase", list(Phase))
def test_reconciling_is_never_true_beside_stalled_or_ready(phase: Phase) -> None:
    true = {c.type for c in for_phase([], phase, "R", "m", 1, NOW) if c.status == "True"}
    assert len(true & {"Reconciling", "Stalled", "Ready"}) == (phase is not Phase.SUSPENDED)


def test_stalled_ends_reconciling() -> None:
    after = stalled(for_phase([], Phase.TRAINING, "R", "m", 1, NOW), "InvalidSpec", "why", 2, LATER)
    assert {c.type: c.status for c in after}["Reconciling"] == "False"
    assert {c.type: c.status for c in after}["Stalled"] == "True"
