"""An edit of the spec takes effect immediately if the run has not trained yet; otherwise it waits for the run's end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW, run_of
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import (
    CheckpointStatus,
    Condition,
    FineTuneJob,
    FineTuneJobStatus,
    LedgerEntry,
    ProgressStatus,
)
from finetune_operator.core.decide import Decision, decide
from finetune_operator.core.observed.claims import ClaimView
from finetune_operator.core.observed.views import JobView, Observed, PodView
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import Phase, PodStatus, RankStatus, TerminationMessage

SETTINGS = Settings(image="trainer:1")
OF_ONE_NODE = {"finetune": ClaimView(("ReadWriteOnce",))}
TIME = "2026-01-01T00:00:00Z"
LAUNCH = [
    {"spec.image": "mended:1"},
    {"spec.podTemplate.nodeSelector": {"zone": "a"}},
    {"spec.resources": {"nodes": 2, "gpusPerNode": 0}},
    {"spec.resources.memory": "8Gi"},
    {"spec.storage.claimName": "other"},
    {"spec.deepspeed.zeroStage": 3},
]
RECIPE = [{"spec.training.epochs": 1}, {"spec.model.uri": "workspace://other"}]


def job(status: FineTuneJobStatus | None = None, **changes: Any) -> FineTuneJob:
    made = parse(manifest(**{"metadata.uid": "0b5e7d2a", "metadata.generation": 1, **changes}))
    return made.model_copy(update={"status": status}) if status else made


def started() -> FineTuneJobStatus:
    status = decide(Observed(job(), NOW, "nonce"), SETTINGS).status
    assert status is not None
    return status


def with_run(status: FineTuneJobStatus, **update: Any) -> FineTuneJobStatus:
    return status.model_copy(update={"run": run_of(status).model_copy(update=update)})


def child(**facts: Any) -> JobView:
    return replace(JobView("j", "0b5e7d2a", NOW, None, "", frozenset(), 1, False), **facts)


def edited(status: FineTuneJobStatus, edit: dict[str, Any], **seen: Any) -> Observed:
    """Return what the operator observes after an edit: the job with the run's spec, and the edited spec.

    Edits that take effect immediately are in both specs.
    """
    at_once = {path: value for path, value in edit.items() if path == "spec.suspend"}
    own = job(status, **{"metadata.generation": 2, **at_once})
    return Observed(own, NOW, "other", edited=True, edit=job(**edit).spec, **seen)


def decided(observed: Observed) -> tuple[Decision, FineTuneJobStatus]:
    decision = decide(observed, SETTINGS)
    assert decision.status is not None
    return decision, decision.status


PENDING = PodView("u", "p", 0, "j", waiting="0/3 nodes are available: 3 Insufficient cpu.")
NO_IMAGE = replace(PENDING, scheduled=True, scheduled_at=NOW, node="n", waiting="ErrImagePull: no such image")
RUNNING = replace(PENDING, scheduled=True, scheduled_at=NOW, node="n", waiting=None, running=True)
NOT_TRAINED_YET: dict[str, dict[str, Any]] = {
    "no pod was made": {"child": child(), "refused": "no pod can be made: exceeded quota"},
    "no node has room": {"child": child(), "pods": (PENDING,)},
    "its image cannot be pulled": {"child": child(), "pods": (NO_IMAGE,)},
    "a queue holds its Job": {"child": child(suspended=True)},
    "its agent answers and its ranks have not met": {
        "child": child(),
        "pods": (RUNNING,),
        "answers": {"u": PodStatus(pod_uid="u", attempt=1, nonce="nonce", index=0)},
    },
}


@pytest.mark.parametrize("edit", LAUNCH, ids=str)
@pytest.mark.parametrize("seen", NOT_TRAINED_YET.values(), ids=NOT_TRAINED_YET.keys())
def test_an_edit_of_the_launch_starts_an_attempt_with_the_new_spec(seen: dict[str, Any], edit: dict[str, Any]) -> None:
    observed = edited(started(), edit, **seen)
    decision, after = decided(observed)
    assert (decision.delete_job, decision.create_children, decision.look_again) == ("clauses-0b5e7-1-1", False, 0)
    assert (run_of(after).number, run_of(after).attempt, run_of(after).spec_attempt) == (1, 2, 2)
    (entry,) = after.ledger
    assert (entry.class_, entry.counted, entry.message) == (
        "Edited", False, "the spec was edited before training began",
    )  # fmt: skip
    now = job(after, **{"metadata.generation": 2, **edit})
    assert (run_of(after).generation, run_of(after).nodes) == (2, now.spec.resources.nodes)
    assert run_of(after).image == (now.spec.image or "trainer:1")
    assert run_of(after).claim_name == (now.spec.storage.claim_name or "finetune")
    assert run_config(now, run_of(after), SETTINGS).digest == run_of(after).config_digest
    assert decide(Observed(now, NOW, "n"), SETTINGS).create_children


@pytest.mark.parametrize("edit", RECIPE, ids=str)
@pytest.mark.parametrize("seen", NOT_TRAINED_YET.values(), ids=NOT_TRAINED_YET.keys())
def test_an_edit_of_the_recipe_ends_the_run_for_one_of_the_new_spec(seen: dict[str, Any], edit: dict[str, Any]) -> None:
    _, ended = decided(edited(started(), edit, **seen))
    assert run_of(ended).completion_time
    assert [(e.class_, e.counted) for e in ended.ledger] == [("Replaced", False)]
    assert ended.phase == "Pending", "nothing has failed"
    for later in ({"metadata.generation": 2, **edit}, {"metadata.generation": 3}):  # the second edit reverts the first
        rest = Observed(job(ended, **later), NOW, "other", leftover=True)
        if run_of(ended).release:
            assert decide(replace(rest, child=child()), SETTINGS).delete_job == "clauses-0b5e7-1-1"
        assert decide(rest, SETTINGS).delete_children
        _, following = decided(replace(rest, leftover=False))
        assert (run_of(following).number, run_of(following).generation) == (2, later["metadata.generation"])


@pytest.mark.parametrize("edit", LAUNCH, ids=str)
def test_an_edit_while_the_job_is_suspended_holds_when_it_goes_on(edit: dict[str, Any]) -> None:
    _, suspended = decided(Observed(job(started(), **{"spec.suspend": True}), NOW, "n"))
    edit = {"spec.suspend": True, **edit}
    _, after = decided(edited(suspended, edit))
    assert after.phase == "Suspended", "it is not resumed in between"
    _, still = decided(Observed(job(after, **{"metadata.generation": 2, **edit}), NOW, "n"))
    assert (still.phase, still.observed_generation, run_of(still).attempt) == ("Suspended", 2, 2)


def test_a_new_recipe_while_the_job_is_suspended_holds_when_it_goes_on() -> None:
    _, suspended = decided(Observed(job(started(), **{"spec.suspend": True}), NOW, "n"))
    edit = {"metadata.generation": 2, "spec.suspend": True, **RECIPE[0]}
    _, after = decided(edited(suspended, edit))
    assert after.phase == "Suspended", "it is not resumed in between"
    _, still = decided(Observed(job(after, **edit), NOW, "n"))
    assert (still.phase, still.observed_generation) == ("Suspended", 2)


def test_an_edit_during_the_back_off_of_an_attempt_waits_for_no_delay() -> None:
    waiting = with_run(started(), attempt=2, not_before="2026-01-01T00:05:00Z")
    _, after = decided(edited(waiting, {"spec.image": "mended:1"}))
    assert (run_of(after).attempt, run_of(after).not_before) == (3, None)
    now = job(after, **{"metadata.generation": 2, "spec.image": "mended:1"})
    assert decide(Observed(now, NOW, "n"), SETTINGS).create_children


def test_an_edit_while_the_claim_is_held_by_pods_of_an_earlier_run_names_another_claim() -> None:
    holder = replace(RUNNING, owner_uid="earlier")
    held = edited(with_run(started(), number=2), LAUNCH[4], remaining=(holder,), claims=OF_ONE_NODE)
    _, after = decided(held)
    assert (run_of(after).claim_name, run_of(after).attempt) == ("other", 2)


def test_several_nodes_on_a_claim_of_one_are_refused_with_the_remedy_before_the_attempt_starts() -> None:
    edit = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
    _, after = decided(edited(started(), edit, child=child()))
    now = Observed(job(after, **{"metadata.generation": 2, **edit}), NOW, "n", claims=OF_ONE_NODE)
    _, stalled = decided(now)
    assert {c.type: c.reason for c in stalled.conditions if c.status == "True"} == {"Stalled": "VolumeNotShared"}
    _, back = decided(edited(stalled, {"metadata.generation": 3, "spec.image": "mended:1"}))
    assert (run_of(back).nodes, run_of(back).attempt) == (1, 3), "another edit is followed as well"


def test_a_plan_that_was_made_smaller_is_forgotten_with_the_spec_that_it_was_made_for() -> None:
    small = with_run(started(), attempt=3, micro_batch_size=1, activation_checkpointing=True)
    _, after = decided(edited(small, {"spec.resources.memory": "64Gi"}, child=child(), pods=(PENDING,)))
    assert (run_of(after).micro_batch_size, run_of(after).activation_checkpointing) == (None, False)


def test_a_changed_request_is_answered_by_the_run_that_has_yet_to_train() -> None:
    observed = edited(started(), {"spec.retrain.request": "again"}, child=child(), pods=(PENDING,))
    decision, after = decided(observed)
    assert decision.delete_job is None
    assert (run_of(after).attempt, run_of(after).generation, after.ledger) == (1, 2, [])
    assert run_of(after).wanted != run_of(started()).wanted


def test_an_edit_is_followed_though_the_spec_of_the_run_was_deleted_with_its_config_map() -> None:
    lost = replace(edited(started(), LAUNCH[0], child=child(), pods=(PENDING,)), spec_lost=True)
    assert decided(lost)[1].ledger[-1].class_ == "Edited"


# ---- a run that has trained -----------------------------------------------------------------------------------------

ATTESTED = Condition(
    type="WorldReady", status="True", reason="r", message="m", last_transition_time=TIME, observed_generation=1
)
ENTRY = LedgerEntry(run=1, attempt=1, class_="Preempted", message="m", start_time=TIME, end_time=TIME)
TRAINED: dict[str, dict[str, Any]] = {
    "its world was attested": {"conditions": [ATTESTED]},
    "a step was reported": {"progress": ProgressStatus(step=1, total_steps=9, epoch=0)},
    "a checkpoint was left": {"checkpoint": CheckpointStatus(step=4, time=TIME, bytes=1, save_seconds=1)},
    "an earlier attempt made steps": {"ledger": [ENTRY.model_copy(update={"step": 3})]},
    "an earlier attempt left a checkpoint": {"ledger": [ENTRY.model_copy(update={"checkpoint_step": 3})]},
}


@pytest.mark.parametrize("edit", [LAUNCH[0], RECIPE[0]], ids=str)
@pytest.mark.parametrize("evidence", TRAINED.values(), ids=TRAINED.keys())
def test_an_edit_of_a_run_that_has_trained_waits_and_is_told(evidence: dict[str, Any], edit: dict[str, Any]) -> None:
    status = started().model_copy(update=evidence)
    _, after = decided(edited(status, edit, child=child(), pods=(PENDING,)))
    assert (run_of(after).number, run_of(after).attempt, run_of(after).completion_time) == (1, 1, None)
    (ready,) = (c for c in after.conditions if c.type == "Ready")
    waits = "the edit of generation 2 waits for the end of this run (retrain.whileRunning: Finish)"
    assert ready.message.endswith(f"; {waits}")


def test_a_world_that_an_earlier_attempt_has_attested_is_remembered() -> None:
    seen = edited(started(), LAUNCH[0], child=child(), pods=(RUNNING,))
    trains = decide(attested(replace(seen, edited=False, edit=None)), SETTINGS).status
    assert trains is not None
    assert run_of(trains).attested
    killed = replace(RUNNING, running=False, phase="Failed", exit_code=137, ended=NOW)
    _, following = decided(edited(trains, LAUNCH[0], child=child(failure=NOW), pods=(killed,)))
    assert run_of(following).attempt == 2
    waits = edited(following, LAUNCH[0], child=child(), pods=(PENDING,))
    assert run_of(decided(waits)[1]).attempt == 2


def test_steps_of_another_run_are_no_steps_of_this_one() -> None:
    earlier = ENTRY.model_copy(update={"step": 3})
    status = with_run(started(), number=2).model_copy(update={"ledger": [earlier]})
    assert run_of(decided(edited(status, LAUNCH[0], child=child()))[1]).attempt == 2


def test_a_first_attempt_that_failed_before_its_first_step_has_not_trained() -> None:
    status = with_run(started(), attempt=2).model_copy(update={"ledger": [ENTRY.model_copy(update={"step": 0})]})
    assert run_of(decided(edited(status, LAUNCH[0]))[1]).attempt == 3


def attested(observed: Observed) -> Observed:
    run = run_of(observed.job.status)
    rank = RankStatus(
        rank=0, world=run.world, config_digest=run.config_digest or "", backend="gloo", zero_stage=2,
        phase=Phase.TRAIN, step=1, heartbeat=1.0,
    )  # fmt: skip
    answer = PodStatus(pod_uid="u", attempt=1, nonce=run.nonce, index=0, ranks=(rank,))
    return replace(observed, answers={"u": answer})


def test_what_the_pods_say_now_counts_before_the_status_has_it() -> None:
    seen = edited(started(), LAUNCH[0], child=child(), pods=(RUNNING,))
    assert run_of(decided(attested(seen))[1]).attempt == 1
    word = TerminationMessage(pod_uid="u", index=0, attempt=1, nonce="nonce", exit_code=0, step=5)
    ended = replace(RUNNING, running=False, exit_code=0, message=word)
    more = replace(RUNNING, uid="v", index=1, running=False)
    assert run_of(decided(replace(seen, pods=(ended, more)))[1]).attempt == 1


def test_a_rank_that_reports_while_other_pods_are_not_there_has_not_trained() -> None:
    two = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
    alone = attested(edited(with_run(started(), nodes=2, world=2), two, child=child(), pods=(RUNNING,)))
    assert run_of(decided(alone)[1]).attempt == 2


def test_pods_that_run_and_cannot_be_asked_may_train_so_nobody_ends_them() -> None:
    unheard = edited(started(), LAUNCH[0], child=child(), pods=(RUNNING,))
    assert run_of(decided(unheard)[1]).attempt == 1
    ended = replace(unheard, pods=(replace(RUNNING, running=False, exit_code=0),))
    assert run_of(decided(ended)[1]).attempt == 1


def test_a_run_that_may_be_replaced_keeps_its_number_if_only_its_launch_was_edited_before_it_trained() -> None:
    edit = {"spec.image": "mended:1", "spec.retrain.whileRunning": "Replace"}
    assert decided(edited(started(), edit, child=child()))[1].ledger[-1].class_ == "Edited"


def test_no_attempt_of_the_old_spec_follows_on_one_that_fails_after_an_edit() -> None:
    failed = replace(NO_IMAGE, phase="Failed", exit_code=1, ended=NOW - timedelta(minutes=1))
    observed = edited(started(), LAUNCH[0], child=child(failure=NOW - timedelta(minutes=1)), pods=(failed,))
    heard = {"u": PodStatus(pod_uid="u", attempt=1, nonce="nonce", index=0)}
    decision, after = decided(replace(observed, answers=heard))
    assert (after.ledger[-1].class_, decision.create_children) == ("Infrastructure", False)
    assert decided(edited(after, LAUNCH[0]))[1].ledger[-1].class_ == "Edited"
