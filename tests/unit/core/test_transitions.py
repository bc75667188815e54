from support.clusters import NOW

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import ConditionType
from finetune_operator.core.conditions import set_condition
from finetune_operator.core.transitions import notes


def test_a_condition_that_this_operator_does_not_know_is_worth_no_event() -> None:
    """An operator of another version may have written it."""
    conditions = set_condition([], ConditionType.COMPLETE, "True", "Complete", "done", 1, NOW)
    conditions.append(conditions[0].model_copy(update={"type": "Evaluated"}))
    told = notes(FineTuneJobStatus(), FineTuneJobStatus(conditions=conditions))
    assert [note.reason for note in told] == ["Complete"]
