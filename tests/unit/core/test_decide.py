"""Single decisions: what a status must and must not contain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.clusters import NOW, RESULT, condition, run_of
from support.manifests import manifest

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.api.v1alpha1 import (
    CheckpointStatus,
    EvaluationStatus,
    FineTuneJob,
    FineTuneJobStatus,
    ProgressStatus,
    SlowestStatus,
)
from finetune_operator.core.decide import Decision, decide, decide_invalid
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.claims import Claims, ClaimView
from finetune_operator.core.observed.views import JobView, LookJobView, Observed, PodView
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import written as status_words
from finetune_operator.core.status.health import Health
from finetune_operator.core.status.progress import valid
from finetune_trainer.contract import Phase as RankPhase
from finetune_trainer.contract import PodStatus, Progress, RankStatus, Result, TerminationMessage

SETTINGS = Settings(image="trainer:1")
SHARED: Claims = {"finetune": ClaimView(("ReadWriteMany",))}
MAX_STATUS_BYTES = 32 * 1024


def job(status: FineTuneJobStatus | None = None, **changes: Any) -> FineTuneJob:
    made = parse(manifest(**{"metadata.uid": "0b5e7d2a", "metadata.generation": 1, **changes}))
    return made.model_copy(update={"status": status}) if status else made


def decided(observed: Observed) -> FineTuneJobStatus:
    status = decide(observed, SETTINGS).status
    assert status is not None
    return status


def started(**changes: Any) -> FineTuneJobStatus:
    return decided(Observed(job(**changes), NOW, "nonce"))


def child(**facts: Any) -> JobView:
    return replace(JobView("j", "0b5e7d2a", NOW, None, "", frozenset(), 1, False), **facts)


def ended_well(status: FineTuneJobStatus, result: Result | None = RESULT) -> PodView:
    run = run_of(status)
    words = TerminationMessage(
        pod_uid="u", index=0, attempt=1, nonce=run.nonce, exit_code=0, world=1, config_digest=run.config_digest,
        result=result,
    )  # fmt: skip
    return PodView(uid="u", name="p", index=0, owner_uid="j", scheduled=True, exit_code=0, message=words)


def answer(
    status: FineTuneJobStatus, phase: RankPhase = RankPhase.TRAIN, heartbeat: float = 1.0, **told: Any
) -> PodStatus:
    run = run_of(status)
    rank = RankStatus(
        rank=0, world=1, config_digest=run.config_digest or "", backend="gloo", zero_stage=2, phase=phase, step=1,
        heartbeat=heartbeat,
    )  # fmt: skip
    progress = Progress(**{"step": 1, "total_steps": 2, "epoch": 0.5, **told})
    return PodStatus(pod_uid="u", attempt=1, nonce=run.nonce, index=0, ranks=(rank,), progress=progress)


def complete(**changes: Any) -> FineTuneJobStatus:
    status = started(**changes)
    success = Observed(job(status, **changes), NOW, "n", child(succeeded=frozenset({0})), (ended_well(status),))
    return decided(success)


def failed(status: FineTuneJobStatus, error: str = "no such column", log: tuple[str, ...] = ()) -> FineTuneJobStatus:
    words = TerminationMessage(pod_uid="u", index=0, attempt=1, nonce="n", exit_code=76, error=error, log=log)
    pod = PodView(uid="u", name="p", index=0, owner_uid="j", exit_code=76, message=words, ended=NOW)
    return decided(Observed(job(status), NOW, "n", child(failure=NOW - timedelta(minutes=1)), (pod,)))


def test_a_run_speaks_at_its_end_for_the_edits_that_held_at_once() -> None:
    status, edit = started(), {"metadata.generation": 2, "spec.ttlSecondsAfterFinished": 60}
    success = Observed(job(status, **edit), NOW, "n", child(succeeded=frozenset({0})), (ended_well(status),))
    ended = decided(success)
    assert (ended.observed_generation, run_of(ended).generation) == (2, 2)
    assert decide(Observed(job(ended, **edit), NOW, "n"), SETTINGS).status == ended, "there is nothing left to write"


def test_a_run_that_ends_after_an_edit_does_not_speak_for_the_edited_spec() -> None:
    status = started()
    edited = job(status, **{"metadata.generation": 2, "spec.training.seed": 3})
    training = decided(Observed(edited, NOW, "n", child(), answers={"u": answer(status)}, edited=True))
    success = Observed(edited, NOW, "n", child(succeeded=frozenset({0})), (ended_well(status),), edited=True)
    for seen in (training, decided(success)):
        assert seen.observed_generation == 1
        assert {c.observed_generation for c in seen.conditions} == {1}
    following = decided(
        Observed(job(decided(success), **{"metadata.generation": 2, "spec.training.seed": 3}), NOW, "n")
    )
    assert (run_of(following).number, following.observed_generation) == (2, 2)


def test_an_edit_that_waits_does_not_take_back_that_an_earlier_one_was_observed() -> None:
    seen = started().model_copy(update={"observed_generation": 2})  # for example an edit of spec.suspend
    edited = job(seen, **{"metadata.generation": 3, "spec.training.seed": 3})
    training = decided(Observed(edited, NOW, "n", child(), answers={"u": answer(seen)}, edited=True))
    assert training.observed_generation == 2


def test_a_run_that_was_replaced_while_suspended_is_suspended_when_no_pod_is_left() -> None:
    ended = failed(started(), error="replaced")
    edited = job(ended, **{"metadata.generation": 2, "spec.training.seed": 3, "spec.suspend": True})
    alive = PodView(uid="u", name="p", index=0, owner_uid="j", scheduled=True, running=True)
    assert decided(Observed(edited, NOW, "n", remaining=(alive,))).phase == "Suspending"
    assert decided(Observed(edited, NOW, "n")).phase == "Suspended"


def test_a_job_that_cannot_run_says_so_although_it_is_suspended() -> None:
    told = started(**{"spec.suspend": True, "spec.model.uri": "file:///models/minilm"})
    assert condition(told, "Stalled") == ("True", "InvalidSpec")
    assert "spec.model.uri" in next(c.message for c in told.conditions if c.type == "Stalled")


def test_no_attempt_follows_when_the_spec_that_the_run_began_with_is_lost() -> None:
    status = started()
    second = status.model_copy(update={"run": run_of(status).model_copy(update={"attempt": 2})})
    edited = job(second, **{"metadata.generation": 2, "spec.training.seed": 3})
    ended = decided(Observed(edited, NOW, "n", edited=True, spec_lost=True))
    assert (run_of(ended).attempt, ended.ledger[-1].class_) == (2, "Replaced")
    assert run_of(ended).completion_time


@pytest.mark.parametrize("success", [True, False])
def test_a_fault_that_went_away_by_itself_leaves_the_word_on_the_newest_run(success: bool) -> None:
    ended = complete() if success else failed(started())
    stalled = decide_invalid(
        ended, 1, InvalidManifestError(["an operator of another version could not read it"]), NOW
    ).status
    assert stalled is not None
    again = decided(Observed(job(stalled), NOW, "n"))
    assert again.conditions == ended.conditions
    assert again.phase == ended.phase


def test_a_job_at_rest_is_decided_to_be_as_it_is() -> None:
    for rest in (complete(), failed(started())):
        decision = decide(Observed(job(rest), NOW + timedelta(days=1), "n"), SETTINGS)
        assert decision.status in (None, rest)
        assert decision.look_again is None


def test_while_the_model_is_loaded_the_message_says_that_all_ranks_have_reported() -> None:
    status = started()
    pods = (PodView(uid="u", name="p", index=0, owner_uid="j", scheduled=True, running=True),)
    waiting = decided(Observed(job(status), NOW, "n", child(), pods))
    assert "0 of 1" in next(c.message for c in waiting.conditions if c.type == "Ready")
    loading = decided(Observed(job(waiting), NOW, "n", child(), pods, {"u": answer(status, RankPhase.LOAD)}))
    assert condition(loading, "WorldReady")[0] == "True"
    assert "1 of 1" in next(c.message for c in loading.conditions if c.type == "Ready")


def test_a_merge_that_failed_is_told_and_the_adapter_is_the_result() -> None:
    status = started()
    unmerged = RESULT.model_copy(update={"merged_path": None, "merge_failure": "output.merge: the disk is full"})
    success = Observed(job(status), NOW, "n", child(succeeded=frozenset({0})), (ended_well(status, unmerged),))
    complete = decided(success)
    assert complete.result is not None
    assert complete.result.merge_failure == "output.merge: the disk is full"
    assert complete.result.uri == f"workspace://{RESULT.path}"
    assert condition(complete, "Complete")[0] == "True"
    for kind in ("Complete", "Ready"):
        message = next(c.message for c in complete.conditions if c.type == kind)
        assert "; there is no merged copy: output.merge: the disk is full; the model is at " in message


def test_metrics_that_are_not_finite_are_left_out() -> None:
    """The API server refuses Infinity, so the run would never end."""
    status = started()
    wild = RESULT.model_copy(update={"base_metrics": {"perplexity": math.inf, "f1": 0.5}, "metrics": {"f1": math.nan}})
    success = Observed(job(status), NOW, "n", child(succeeded=frozenset({0})), (ended_well(status, wild),))
    evaluation = decided(success).evaluation
    assert evaluation is not None
    assert (evaluation.base, evaluation.final) == ({"f1": 0.5}, {})


@pytest.mark.parametrize(
    "nonsense",
    [{"epoch": math.inf}, {"loss": math.nan}, {"eta_seconds": math.inf}, {"step": 10**30}, {"heartbeat": 1e30}],
)
def test_an_answer_with_numbers_that_no_status_holds_is_no_answer(nonsense: dict[str, Any]) -> None:
    run = run_of(started())
    assert valid(run, answer(started()), "u", 0)
    assert not valid(run, answer(started(), **nonsense), "u", 0)


def running_then(suspended: bool, *pods: PodView, failure: bool = False) -> Observed:
    """Return an attempt whose Job exists, with the current value of spec.suspend."""
    status = started()
    run = run_of(status).model_copy(update={"job_uid": "j"})
    now = job(status.model_copy(update={"run": run}), **{"spec.suspend": suspended})
    return Observed(now, NOW, "n", child(failure=NOW - timedelta(minutes=1) if failure else None), pods)


def test_an_attempt_that_is_suspended_does_not_say_that_another_starts_now() -> None:
    status = decided(running_then(True, PodView(uid="u", name="p", index=0, owner_uid="j", running=True)))
    assert (status.phase, condition(status, "Reconciling")) == ("Suspending", ("True", "Suspending"))
    assert status.conditions[0].message == "Run 1 is being stopped; 1 of its pods are still there"
    assert (run_of(status).attempt, status.ledger[0].class_) == (2, "Suspended")


def test_an_attempt_that_fails_while_it_is_to_be_suspended_says_both() -> None:
    pod = PodView(uid="u", name="p", index=0, owner_uid="j", phase="Failed", exit_code=79, ended=NOW, node="n1")
    status = decided(running_then(True, pod, failure=True))
    assert status.phase == "Restarting"
    assert "Attempt 2 of run 1 starts when spec.suspend is false" in status.conditions[0].message
    assert "ended as Hung (exit code 79, node n1)" in status.conditions[0].message


def ended_attempt(nodes: int, *pods: PodView, deleted: bool = False, claims: Claims | None = SHARED) -> Decision:
    """Return the decision after the Job of a first attempt failed or was deleted."""
    status = started(**{"spec.resources": {"nodes": nodes, "gpusPerNode": 0}})
    assert run_of(status).nodes == nodes
    run = run_of(status).model_copy(update={"job_uid": "j"})
    now = job(status.model_copy(update={"run": run}), **{"spec.resources": {"nodes": nodes, "gpusPerNode": 0}})
    return decide(Observed(now, NOW, "n", None if deleted else child(failure=NOW), pods, claims=claims), SETTINGS)


FAILED = PodView("u0", "p0", 0, "j", phase="Failed", exit_code=1, ended=NOW)


def test_the_next_attempt_follows_at_once_where_no_pod_can_hold_its_claim() -> None:
    assert ended_attempt(1, FAILED).create_children
    assert not ended_attempt(1, FAILED, claims={"finetune": None}).create_children, "its claim is missing"
    assert not ended_attempt(1, FAILED, claims=None).create_children, "it is not known whether its claim is there"
    sidecar_runs = replace(FAILED, phase="Running")
    assert not ended_attempt(1, sidecar_runs).create_children
    gone = replace(FAILED, present=False, exit_code=None, deleted=NOW)
    assert not ended_attempt(1, gone, deleted=True).create_children, "the pods of a deleted Job may live on for a while"


def test_no_attempt_follows_at_once_on_one_whose_pods_a_queue_has_asked_to_stop() -> None:
    nodes = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
    status = started(**nodes)
    running = PodView("u0", "p0", 0, "j", phase="Running", scheduled=True, scheduled_at=NOW, running=True, deleted=NOW)
    run = run_of(status).model_copy(update={"job_uid": "j"})
    now = job(status.model_copy(update={"run": run}), **nodes)
    decision = decide(Observed(now, NOW, "n", child(suspended=True), (running,)), SETTINGS)
    assert decision.status
    assert decision.status.ledger[-1].class_ == "Suspended"
    assert not decision.create_children, "they save what it begins with"


def test_pods_whose_job_was_suspended_are_given_a_moment_to_be_told() -> None:
    status = started()
    run = run_of(status).model_copy(update={"job_uid": "j"})
    running = PodView("u0", "p0", 0, "j", phase="Running", scheduled=True, scheduled_at=NOW, running=True)
    now = job(status.model_copy(update={"run": run}))
    suspended = decided(Observed(now, NOW, "n", child(suspended=True), (running,)))
    assert suspended.ledger[-1].class_ == "Suspended"
    waits = Observed(job(suspended), NOW, "n", remaining=(running,))
    assert not decide(waits, SETTINGS).create_children
    assert decide(replace(waits, now=NOW + timedelta(seconds=SETTINGS.settle)), SETTINGS).create_children
    assert decide(replace(waits, remaining=()), SETTINGS).create_children


def test_a_run_that_ends_while_a_quota_or_a_queue_keeps_its_pods_back_takes_its_job_along() -> None:
    spec = {"spec.faultTolerance": {"queueMinutes": 1}}
    status = started(**spec)
    run = run_of(status).model_copy(update={"job_uid": "j"})
    late = NOW + timedelta(minutes=1)
    ended = decided(Observed(job(status.model_copy(update={"run": run}), **spec), late, "n", child(suspended=True)))
    assert ended.ledger[-1].class_ == "DeadlineExceeded"
    again = Observed(job(ended, **spec), late, "n", child(suspended=True))
    assert decide(again, SETTINGS).delete_job == "clauses-0b5e7-1-1"


def test_the_job_of_a_failed_pod_is_left_to_its_controller_and_any_other_is_deleted() -> None:
    assert ended_attempt(1, FAILED).delete_job is None
    lost = replace(FAILED, exit_code=None, phase="Running", deleted=NOW, disrupted="DeletionByTaintManager: ")
    assert ended_attempt(1, lost).delete_job == "clauses-0b5e7-1-1"
    stopped = replace(FAILED, deleted=NOW)
    assert ended_attempt(1, stopped).delete_job == "clauses-0b5e7-1-1", "it will not stay for its log"


def test_a_quota_that_refuses_pods_is_given_what_is_left_of_the_attempt_before() -> None:
    run = run_of(started()).model_copy(update={"attempt": 2, "job_uid": "j"})
    second = Observed(job(started().model_copy(update={"run": run})), NOW, "n", child(), refused="no pod can be made")
    assert decide(second, SETTINGS).delete_job == "clauses-0b5e7-1-1"
    assert decide(replace(second, refused=None), SETTINGS).delete_job is None


def test_whoever_resumes_a_job_waits_for_no_delay_of_a_failure_before() -> None:
    status = started()
    run = run_of(status).model_copy(update={"attempt": 2, "not_before": "2026-01-01T00:05:00Z"})
    waiting = status.model_copy(update={"run": run})
    suspended = decided(Observed(job(waiting, **{"spec.suspend": True}), NOW, "n"))
    assert suspended.phase == "Suspended"
    assert run_of(suspended).not_before is None


def test_a_result_whose_pod_is_gone_is_read_from_the_workspace_by_one_job() -> None:
    status = started()
    seen = Observed(job(status), NOW, "n", child(succeeded=frozenset({0})))
    assert decide(seen, SETTINGS) == Decision(create_look_job=True, look_again=0)
    waiting = decide(replace(seen, look_job=LookJobView("0b5e7d2a", False, None)), SETTINGS)
    assert not waiting.create_look_job
    assert waiting.status is not None
    assert (waiting.status.phase, condition(waiting.status, "Reconciling")) == ("Exporting", ("True", "ReadingResult"))
    read = decided(replace(seen, look_job=LookJobView("0b5e7d2a", True, ended_well(status).message)))
    assert (read.phase, read.result and read.result.digest) == ("Complete", RESULT.digest)


def test_the_configuration_that_the_reading_job_mounts_is_made_again_first() -> None:
    lost = (MissingChild("ConfigMap", "clauses-0b5e7-1-1", can_be_made=True),)
    seen = Observed(job(started()), NOW, "n", child(succeeded=frozenset({0})), missing=lost)
    assert decide(seen, SETTINGS).make_again == lost


def test_ended_pods_let_go_of_a_claim_that_is_being_deleted() -> None:
    """The claim is deleted only when no pod uses it, and a pod that has ended still counts."""
    going = {"finetune": ClaimView(("ReadWriteMany",), deleted=True)}
    crashed = PodView(uid="u", name="p", index=0, owner_uid="j", phase="Failed", exit_code=1, ended=NOW)
    status = decided(Observed(job(started()), NOW, "n", child(), (crashed,)))
    assert run_of(status).attempt == 2
    waiting = decide(Observed(job(status), NOW, "n", claims=going), SETTINGS)
    assert (waiting.free_claim, waiting.status and waiting.status.phase) == (True, "Restarting")
    over = complete()
    again = job(over, **{"metadata.generation": 2, "spec.training.seed": 7})
    assert decide(Observed(again, NOW, "n", claims=going, leftover=True), SETTINGS).delete_children
    blocked = decided(Observed(again, NOW, "n", claims=going))
    assert condition(blocked, "Reconciling") == ("True", "ClaimBeingDeleted")


def test_a_job_that_only_bears_the_name_of_the_reading_one_is_not_believed() -> None:
    status = started()
    foreign = LookJobView("another", True, ended_well(status).message)
    seen = Observed(job(status), NOW, "n", child(succeeded=frozenset({0})), look_job=foreign)
    assert condition(decided(seen), "Stalled") == ("True", "NameConflict")


def test_a_job_whose_pods_are_kept_by_sidecars_goes_when_the_result_is_known() -> None:
    status = started()
    pod = replace(ended_well(status), phase="Running", others=1, others_running=1)
    complete = decided(Observed(job(status), NOW, "n", child(), (pod,)))
    assert (complete.phase, run_of(complete).release) == ("Complete", True)
    following = decide(Observed(job(complete), NOW, "n", child(), (pod,)), SETTINGS)
    assert following.delete_job == "clauses-0b5e7-1-1"


def test_a_failed_pod_that_a_sidecar_keeps_running_holds_nothing() -> None:
    status = started()
    pod = PodView(
        uid="u", name="p", index=0, owner_uid="j", scheduled=True, phase="Running", exit_code=1, others=1,
        others_running=1, ended=NOW,
    )  # fmt: skip
    decision = decide(Observed(job(status), NOW, "n", child(), (pod,)), SETTINGS)
    assert decision.status is not None
    assert (decision.status.ledger[0].class_, decision.delete_job) == ("Infrastructure", "clauses-0b5e7-1-1")


@pytest.mark.parametrize("letter", ["x", "漢"])
def test_a_status_stays_below_32_kib(letter: str) -> None:
    """Every field of the status is set and as long as possible."""
    status = started()
    for number in range(1, 30):
        status = failed(status, error=letter * 1200, log=tuple(letter * 60 for _ in range(20)))
        run = run_of(status).model_copy(update={"completion_time": None, "number": number})
        status = status.model_copy(update={"run": run})
    times = ["2026-01-01T00:00:00Z"] * 50
    run = run_of(status).model_copy(
        update={"failure_times": times, "avoid_nodes": ["n" * 253] * 10, "image": "i" * 512, "image_id": "i" * 512}
    )
    metrics = {f"metric_{number}": -1.7976931348623157e308 for number in range(10)}
    saved = {"step": 2**53 - 1, "time": "2026-01-01T00:00:00Z", "bytes": 2**53 - 1, "save_seconds": 1e10}
    checkpoint = CheckpointStatus(**saved, request=letter * 85, failure=letter * 170)
    slowest = SlowestStatus(rank=1, pod="p" * 253, node="n" * 253, times=1e10)
    progress = ProgressStatus(step=1, total_steps=2, epoch=0.5, slowest=slowest)
    told = {
        "run": run, "checkpoint": checkpoint, "progress": progress,
        "evaluation": EvaluationStatus(base=metrics, final=metrics),
    }  # fmt: skip
    stuck = PodView(uid="u", name="p", index=0, owner_uid="j", waiting=letter * 30_000)
    status = decided(Observed(job(status.model_copy(update=told)), NOW, "n", child(), (stuck,)))
    health = status_words.with_health(
        Observed(job(status), NOW, "n"), status, Health("False", constants.STRAGGLING, letter * 2000)
    )
    written = json.dumps(health.model_dump(mode="json", by_alias=True, exclude_none=True), ensure_ascii=False)
    assert len(written.encode()) < MAX_STATUS_BYTES
    assert status.ledger[-1].log
