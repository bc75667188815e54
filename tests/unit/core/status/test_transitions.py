"""Which changes of the status emit an event."""

from __future__ import annotations

from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator import constants
from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.conditions import for_phase, set_condition, stalled
from finetune_operator.core.status.transitions import EVENTS, notes

RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)
NEW = FineTuneJobStatus()
PHASES = {
    Phase.PENDING: constants.PENDING,
    Phase.STARTING: constants.STARTING,
    Phase.TRAINING: constants.TRAINING,
    Phase.EXPORTING: constants.EXPORTING,
    Phase.RESTARTING: constants.RESTARTING,
    Phase.SUSPENDING: constants.SUSPENDING,
    Phase.SUSPENDED: constants.SUSPENDED,
    Phase.COMPLETE: constants.COMPLETE,
    Phase.FAILED: constants.FAILED,
}


def in_phase(
    phase: Phase, before: FineTuneJobStatus = NEW, reason: Reason | None = None, message: str = "so"
) -> FineTuneJobStatus:
    conditions = for_phase(before.conditions, phase, (reason or PHASES[phase]).name, message, 1, NOW)
    return FineTuneJobStatus(phase=phase, conditions=conditions, run=RUN)


def stuck(reason: Reason, message: str = "so", before: FineTuneJobStatus = NEW, generation: int = 1) -> Any:
    return before.model_copy(update={"conditions": stalled(before.conditions, reason.name, message, generation, NOW)})


def told(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[tuple[str, str]]:
    return [(note.type, note.reason) for note in notes(old, new)]


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_is_told_once_if_its_reason_is_worth_it(phase: Phase) -> None:
    reason = PHASES[phase]
    now = in_phase(phase)
    assert told(NEW, now) == ([(EVENTS[reason], reason.name)] if reason in EVENTS else [])
    assert told(now, now) == []


@pytest.mark.parametrize(
    "reason",
    [
        constants.INVALID_SPEC,
        constants.INVALID_STATUS,
        constants.NAME_CONFLICT,
        constants.VOLUME_NOT_SHARED,
        constants.REFUSED,
    ],
    ids=lambda reason: reason.name,
)
def test_what_stalls_a_job_is_a_warning_told_once(reason: Reason) -> None:
    before = in_phase(Phase.PENDING)
    now = stuck(reason, before=before)
    assert told(before, now) == [("Warning", reason.name)]
    assert told(now, now) == []


def test_all_ranks_attested_is_told() -> None:
    before = in_phase(Phase.STARTING)
    conditions = set_condition(
        before.conditions, ConditionType.WORLD_READY, "True", constants.WORLD_READY.name, "all", 1, NOW
    )
    assert told(before, before.model_copy(update={"conditions": conditions})) == [("Normal", "AllRanksAttested")]


def test_an_attempt_that_ended_is_one_warning_with_what_ended_it() -> None:
    before = in_phase(Phase.TRAINING)
    message = "Attempt 2 of run 1 starts now, from the beginning; the one before ended as Hung: it hung"
    (note,) = notes(before, in_phase(Phase.RESTARTING, before, message=message))
    assert note == ("Warning", "Restarting", message)
    (last,) = notes(before, in_phase(Phase.FAILED, before, message="Run 1 failed: Hung: it hung"))
    assert last == ("Warning", "Failed", "Run 1 failed: Hung: it hung")


def test_attempts_that_end_one_after_the_other_are_each_told() -> None:
    second = in_phase(Phase.RESTARTING, message="Attempt 2 of run 1 starts now")
    third = in_phase(Phase.RESTARTING, second, message="Attempt 3 of run 1 starts in 12s")
    assert told(second, third) == [("Warning", "Restarting")]


def test_a_volume_that_is_still_attached_is_told_while_the_job_goes_on() -> None:
    before = in_phase(Phase.RESTARTING)
    waiting = in_phase(Phase.RESTARTING, before, constants.VOLUME_ATTACHED_ELSEWHERE)
    assert told(before, waiting) == [("Warning", "VolumeAttachedElsewhere")]
    assert told(waiting, waiting) == []


def test_a_suspended_job_is_told_once_and_once_more_when_it_is_resumed() -> None:
    stopping = in_phase(Phase.SUSPENDING, in_phase(Phase.TRAINING))
    suspended = in_phase(Phase.SUSPENDED, stopping)
    assert told(in_phase(Phase.TRAINING), stopping) == []
    assert told(stopping, suspended) == [("Normal", "Suspended")]
    (note,) = notes(suspended, in_phase(Phase.PENDING, suspended))
    assert note == ("Normal", "Resumed", "The job is no longer suspended; attempt 1 of run 1 starts")


def test_a_suspended_job_that_turns_out_to_need_nothing_is_not_resumed() -> None:
    """The job was edited back to the recipe of the finished training."""
    suspended = in_phase(Phase.SUSPENDED)
    assert told(suspended, in_phase(Phase.COMPLETE, suspended)) == [("Normal", "Complete")]


def test_numbers_of_a_quota_that_change_every_minute_are_not_told() -> None:
    first = stuck(constants.REFUSED, "exceeded quota: used: 3")
    assert told(first, stuck(constants.REFUSED, "exceeded quota: used: 4", first)) == []


def test_another_fault_of_the_next_generation_is_told() -> None:
    first = stuck(constants.INVALID_SPEC, "spec.model.uri: wrong")
    assert told(first, stuck(constants.INVALID_SPEC, "spec.model.uri: wrong", first, 2)) == []
    assert told(first, stuck(constants.INVALID_SPEC, "spec.image: wrong", first, 2)) == [("Warning", "InvalidSpec")]


def test_progress_and_waiting_are_not_told() -> None:
    first = in_phase(Phase.PENDING, message="No pod is scheduled yet; 0/3 nodes are available")
    assert told(first, in_phase(Phase.PENDING, first, message="No pod is scheduled yet; 0/4 nodes")) == []
    training = in_phase(Phase.TRAINING)
    assert told(training, training.model_copy(update={"observed_generation": 2})) == []


def test_a_condition_that_this_operator_does_not_know_is_worth_no_event() -> None:
    """An operator of another version may have written the condition."""
    conditions = set_condition([], ConditionType.TRAINING, "True", "Training", "trains", 1, NOW)
    conditions.append(conditions[0].model_copy(update={"type": "Evaluated", "reason": "Complete"}))
    assert told(NEW, FineTuneJobStatus(conditions=conditions)) == [("Normal", "Training")]


def test_every_reason_that_ends_or_holds_up_a_job_is_told() -> None:
    silent = {reason.name for reason in vars(constants).values() if isinstance(reason, Reason)}
    silent -= {reason.name for reason in EVENTS}
    of_training = {"Healthy", "Diverging", "Diverged", "CheckpointFailing", "Straggling", "Hung", "NotTraining"}
    assert silent - of_training == {
        "Pending", "Unschedulable", "PodsRefused", "Queued", "ImageNotPulled", "ContainerNotCreated", "Starting",
        "PodsRunning", "Exporting", "Suspending", "NotYet",
    }  # fmt: skip
    assert of_training <= silent, "they come and go; the status tells them"
