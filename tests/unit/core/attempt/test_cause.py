"""The cause of a failed attempt, derived from what its pods left behind."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from support.clusters import NOW

from finetune_operator.core.attempt.cause import cause_of, has_failed, seconds_to_wait, stops_by_itself
from finetune_operator.core.observed.views import JobView, PodView
from finetune_trainer.contract import FailureClass, TerminationMessage


def pod(index: int, exit_code: int | None = None, **facts: Any) -> PodView:
    error_at = facts.pop("error_at", None)
    error = facts.pop("error", None)
    message = None
    if error:
        message = TerminationMessage(
            pod_uid=f"u{index}", index=index, attempt=1, nonce="n", exit_code=exit_code or 0, failing_rank=index,
            error=error, error_time=None if error_at is None else (NOW + timedelta(seconds=error_at)).timestamp(),
        )  # fmt: skip
    return PodView(
        uid=f"u{index}", name=f"pod-{index}", index=index, owner_uid="j", node=f"n{index}", exit_code=exit_code,
        message=message, **facts,
    )  # fmt: skip


def child(failed_at: float | None = 5) -> JobView:
    failure = None if failed_at is None else NOW + timedelta(seconds=failed_at)
    return JobView("j", "o", NOW, failure, "has failed", frozenset(), 2, False)


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def test_the_earliest_error_wins_whoever_ended_first() -> None:
    pods = [
        pod(0, 1, error="peer closed", error_at=9, ended=at(9)),
        pod(1, 76, error="bad row", error_at=8, ended=at(12)),
    ]
    cause = cause_of(child(), pods)
    assert (cause.failure, cause.message, cause.rank, cause.node) == (FailureClass.INVALID, "bad row", 1, "n1")


def test_a_pod_that_only_heard_of_the_error_is_not_the_cause_though_it_ended_first() -> None:
    pods = [
        pod(0, 76, error="no such column", error_at=9, ended=at(10)),
        pod(1, 76, error="rank 0 failed: no such column", ended=at(8)),
    ]
    assert cause_of(child(), pods).message == "no such column"


def test_a_pod_stopped_by_the_controller_is_not_the_cause() -> None:
    pods = [pod(0, 75, deleted=at(6), ended=at(7)), pod(1, 1, error="boom", error_at=4.5, ended=at(4.6))]
    assert cause_of(child(5), pods).message == "boom"


def test_of_pods_deleted_within_a_second_the_one_that_was_deleted_first_is_the_cause() -> None:
    pods = [
        pod(0, 75, error="stopped", deleted=at(5), ended=at(5), deletion_version=12),
        pod(1, 75, error="stopped", deleted=at(5), ended=at(6), deletion_version=11),
    ]
    cause = cause_of(child(5), pods)
    assert (cause.failure, cause.pod, cause.node) == (FailureClass.PREEMPTED, "pod-1", "n1")


def test_a_pod_that_was_stopped_is_the_cause_of_what_others_noticed_of_its_end() -> None:
    """Both pods were deleted in the second in which the Job failed."""
    pods = [
        pod(0, 1, error="another rank is gone", deleted=at(5), ended=at(6), deletion_version=12),
        pod(1, 75, error="stopped", error_at=5, deleted=at(5), ended=at(5), deletion_version=11),
    ]
    cause = cause_of(child(5), pods)
    assert (cause.failure, cause.pod) == (FailureClass.PREEMPTED, "pod-1")


def test_a_pod_killed_after_the_controller_deleted_it_is_not_the_cause() -> None:
    pods = [pod(0, 137, deleted=at(5), ended=at(35)), pod(1, 1, error="boom", error_at=None, ended=at(40))]
    assert cause_of(child(5), pods).message == "boom"


def test_a_pod_s_own_word_counts_though_a_signal_ended_it_afterwards() -> None:
    said = pod(0, 76, error="no such column", error_at=4, ended=at(6), deleted=at(5))
    pods = [replace(said, exit_code=143), pod(1, 76, error="rank 0 failed: no such column", ended=at(5))]
    cause = cause_of(child(5), pods)
    assert (cause.message, cause.exit_code) == ("no such column", 76)


def test_an_eviction_before_the_others_failed_is_the_cause() -> None:
    pods = [
        pod(0, 1, error="peer closed", error_at=3, ended=at(3)),
        pod(1, 143, disrupted="Evicted: drained", deleted=at(1)),
    ]
    cause = cause_of(child(5), pods)
    assert cause.failure is FailureClass.PREEMPTED
    assert "drained" in cause.message


def test_a_deletion_by_somebody_is_a_preemption() -> None:
    assert cause_of(child(5), [pod(0, 75, deleted=at(2)), pod(1, 75, deleted=at(6))]).pod == "pod-0"


def test_a_container_killed_for_memory_without_a_word_is_out_of_memory() -> None:
    assert cause_of(child(), [pod(0, 137, reason="OOMKilled", ended=at(4))]).failure is FailureClass.OUT_OF_MEMORY


def test_an_unknown_exit_code_is_the_infrastructure_s() -> None:
    assert cause_of(child(), [pod(0, 139, ended=at(4))]).failure is FailureClass.INFRASTRUCTURE


def test_where_nothing_is_left_the_cause_is_unknown() -> None:
    assert cause_of(None, []).failure is FailureClass.UNKNOWN
    assert "has failed" in cause_of(child(), [pod(0), pod(1)]).message


def test_pods_that_were_all_deleted_in_the_second_of_the_failure_were_taken_away() -> None:
    """Somebody deleted one pod and the controller the other; with times in whole seconds, both may be either."""
    pods = [pod(0, 137, deleted=at(5)), pod(1, deleted=at(5))]
    assert cause_of(child(5), pods).failure is FailureClass.PREEMPTED


def test_a_time_that_no_calendar_has_is_not_believed() -> None:
    pods = [
        pod(0, 1, error="symptom", error_at=None, ended=at(9)),
        pod(1, 76, error="bad row", error_at=8, ended=at(8)),
    ]
    assert pods[0].message
    wild = replace(pods[0], message=pods[0].message.model_copy(update={"error_time": 1e30}))
    assert cause_of(child(), [wild, pods[1]]).message == "bad row"


# ---- when a failure is reported -------------------------------------------------------------------------------------


def test_an_attempt_is_lost_with_its_first_pod_before_the_job_says_so() -> None:
    assert has_failed(child(None), (pod(0), pod(1, 1, ended=at(1))))
    assert not has_failed(child(None), (pod(0), pod(1, 0, ended=at(1))))


def test_an_attempt_is_lost_as_soon_as_somebody_deletes_a_pod_that_has_not_ended_well() -> None:
    """The Job reports the failure only when the pod has ended, up to its whole grace period later."""
    assert has_failed(child(None), (pod(0), pod(1, deleted=at(2))))
    assert has_failed(child(None), (pod(0), pod(1, 75, deleted=at(2))))
    assert not has_failed(child(None), (pod(0), pod(1, 0, deleted=at(2))))


def test_the_pods_of_a_suspended_job_are_deleted_without_a_failure() -> None:
    suspended = replace(child(None), suspended=True)
    assert not has_failed(suspended, (pod(0, 75, deleted=at(2)), pod(1, deleted=at(2))))
    assert has_failed(replace(suspended, failure=at(1)), ())


def test_a_pod_counts_by_its_trainer_whatever_becomes_of_an_injected_sidecar() -> None:
    lives_on = pod(1, 1, ended=at(1), phase="Running", others=1, others_running=1)
    assert has_failed(child(None), (pod(0), lives_on))
    sidecar_failed = pod(1, 0, ended=at(1), phase="Failed", others=1)
    assert not has_failed(child(None), (pod(0), sidecar_failed))


def test_the_job_controller_does_not_end_an_attempt_whose_failed_pod_is_kept_by_a_sidecar() -> None:
    failed = pod(1, 1, ended=at(1), phase="Failed", others=1)
    assert stops_by_itself([pod(0), failed])
    assert not stops_by_itself([pod(0), replace(failed, phase="Running", others_running=1)])


# ---- when all pods are gone -----------------------------------------------------------------------------------------


def told_by_job(message: str) -> JobView:
    return replace(child(), failure_message=f"{message} matching FailJob rule at index 0")


def test_without_its_pods_an_attempt_has_the_class_of_the_exit_code_in_its_jobs_condition() -> None:
    cause = cause_of(told_by_job("Container trainer for pod n/pod-1-x failed with exit code 76"), [])
    assert (cause.failure, cause.exit_code, cause.pod) == (FailureClass.INVALID, 76, "pod-1-x")
    assert cause.message == "pod pod-1-x ended with exit code 76, as its Job says; the pod is gone"


def test_a_pod_that_is_gone_and_was_killed_may_have_failed_or_been_deleted() -> None:
    cause = cause_of(told_by_job("Container trainer for pod n/pod-1-x failed with exit code 137"), [])
    assert (cause.failure, cause.exit_code) == (FailureClass.UNKNOWN, 137)


def test_without_its_pods_an_attempt_that_the_cluster_took_away_is_preempted() -> None:
    cause = cause_of(told_by_job("Pod n/pod-1-x has condition DisruptionTarget"), [])
    assert (cause.failure, cause.exit_code, cause.pod) == (FailureClass.PREEMPTED, None, "pod-1-x")


def test_the_job_says_more_than_pods_that_its_controller_stopped() -> None:
    stopped = pod(0, 75, deleted=at(6), ended=at(7))
    cause = cause_of(told_by_job("Container trainer for pod n/pod-1-x failed with exit code 77"), [stopped])
    assert cause.failure is FailureClass.DIVERGED


def test_the_job_says_no_more_than_a_pod_that_is_known() -> None:
    """Within one second, pod 0 was stopped, and pod 1, which only noticed that, was the first to fail for the Job."""
    stopped = pod(0, 75, error="stopped", error_at=5, deleted=at(5), ended=at(5), deletion_version=1)
    heard = pod(1, 1, error="another rank is gone", deleted=at(5), ended=at(5), deletion_version=2)
    cause = cause_of(told_by_job("Container trainer for pod n/pod-1 failed with exit code 1"), [stopped, heard])
    assert (cause.failure, cause.pod) == (FailureClass.PREEMPTED, "pod-0")


def test_a_pod_that_says_why_says_more_than_the_job() -> None:
    cause = cause_of(
        told_by_job("Pod n/pod-0-x has condition DisruptionTarget"), [pod(1, 76, error="bad row", error_at=3)]
    )
    assert cause.message == "bad row"


def test_a_pod_that_was_killed_without_a_word_waits_for_nobody() -> None:
    pods = (pod(0), pod(1, 137, ended=at(1)))
    assert seconds_to_wait(child(None), pods, at(1), 5) <= 0


def test_the_other_pods_words_are_awaited_for_a_moment() -> None:
    pods = (pod(0), pod(1, 1, error="boom", error_at=1, ended=at(1)))
    assert seconds_to_wait(child(None), pods, at(2), 5) == 4
    assert seconds_to_wait(child(4), pods, at(2), 5) == 4
    assert seconds_to_wait(child(None), (replace(pods[0], present=False), pods[1]), at(2), 5) <= 0
    assert seconds_to_wait(child(None), (pod(0, 75, ended=at(2)), pods[1]), at(2), 5) <= 0


def test_the_end_of_a_pod_that_is_gone_is_waited_for_as_watches_do_not_wait_for_each_other() -> None:
    gone = pod(0, present=False, scheduled=True)
    assert seconds_to_wait(child(failed_at=5), (gone,), at(6), settle=5) == 4
    assert seconds_to_wait(child(failed_at=5), (replace(gone, deleted=at(5)),), at(6), settle=5) == 0


EXCESS = "wrote more than 100Gi to its node's disk; raise resources.scratch"


def test_a_pod_that_was_evicted_for_its_own_excess_is_the_cause_though_it_says_that_it_was_stopped() -> None:
    evicted = pod(1, 75, error="stopped on request", error_at=5, ended=at(5), phase="Failed", excess=EXCESS)
    sibling = pod(0, 1, error="connection reset by peer", error_at=4.8, ended=at(5))
    cause = cause_of(child(6), [sibling, evicted])
    assert cause.failure is FailureClass.INFRASTRUCTURE
    assert cause.message == f"pod pod-1 was evicted because it {EXCESS}"
    assert (cause.exit_code, cause.pod, cause.node) == (75, "pod-1", None), "no node is to blame"


def test_a_pod_that_was_evicted_because_its_node_ran_short_was_taken_away() -> None:
    message = "TerminationByKubelet: The node was low on resource: ephemeral-storage."
    evicted = pod(0, 137, phase="Failed", reason="Evicted", disrupted=message, ended=at(5))
    assert cause_of(child(6), [evicted]).failure is FailureClass.PREEMPTED
