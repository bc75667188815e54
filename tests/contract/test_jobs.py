"""Tests of Indexed Jobs with `backoffLimit: 0`: what the Job controller creates, counts and deletes."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from support.contract import STAYS, Plan, Subject, conditions, terminated

from finetune_operator.constants import LABEL_INDEX, LABEL_JOB_NAME
from finetune_operator.protocol import CORE_EVENTS, JOBS, PODS, Event, Object


def deleted(events: list[Event]) -> list[Object]:
    """Return the deleted pods, each in the last state that the watch reported."""
    return [event.object for event in events if event.type == "DELETED"]


async def told(events: list[Event], count: int) -> bool:
    """Return whether the watch has reported at least `count` deletions."""
    return len(deleted(events)) >= count


async def no_pods(subject: Subject) -> bool:
    return not await subject.cluster.list(PODS, subject.namespace)


async def test_each_index_gets_a_pod_with_its_name_labels_host_name_and_owner(subject: Subject) -> None:
    job = await subject.start_job("task", STAYS, STAYS)
    pods = await subject.running(2)
    for index, pod in enumerate(pods):
        meta, spec = pod["metadata"], pod["spec"]
        assert meta["name"].startswith(f"task-{index}-")
        assert len(meta["name"]) == len(f"task-{index}-") + 5
        assert (
            meta["labels"]
            | {
                LABEL_JOB_NAME: "task",
                LABEL_INDEX: str(index),
                "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
                "example": "task",
            }
            == meta["labels"]
        )
        assert meta["annotations"][LABEL_INDEX] == str(index)
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Job", job["metadata"]["uid"], True)
        assert (spec["hostname"], spec["subdomain"]) == (f"task-{index}", "task")
        assert "JOB_COMPLETION_INDEX" in [variable["name"] for variable in spec["containers"][0]["env"]]
        assert spec["nodeName"]
        assert conditions(pod)["PodScheduled"] == "True"
        assert conditions(pod)["Ready"] == "True"
        assert pod["status"]["podIP"]
        assert pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]


async def test_a_running_job_counts_its_active_and_ready_pods(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS)
    await subject.running(2)

    async def both_are_ready() -> bool:
        status = (await subject.cluster.get(JOBS, subject.namespace, "task"))["status"]
        return bool(status.get("ready") == 2)

    await subject.until(both_are_ready)
    status = (await subject.cluster.get(JOBS, subject.namespace, "task"))["status"]
    assert (status["active"], status["terminating"]) == (2, 0)
    assert status["startTime"]
    assert "failed" not in status
    assert "succeeded" not in status


async def test_when_all_indexes_succeed_the_job_is_complete_and_its_pods_stay(subject: Subject) -> None:
    done = Plan(exit_code=0, message="well done")
    await subject.start_job("task", done, done, done)
    job = await subject.job_has("task", "Complete")
    assert conditions(job)["SuccessCriteriaMet"] == "True"
    complete = next(c for c in job["status"]["conditions"] if c["type"] == "Complete")
    assert complete["reason"] == "CompletionsReached"
    assert complete["message"] == "Reached expected number of succeeded pods"
    status = job["status"]
    assert (status["succeeded"], status["completedIndexes"]) == (3, "0-2")
    assert status["completionTime"] >= status["startTime"]
    assert "active" not in status
    assert "failed" not in status
    pods = await subject.cluster.list(PODS, subject.namespace)
    assert len(pods) == 3
    for pod in pods:
        assert pod["status"]["phase"] == "Succeeded"
        assert terminated(pod)["exitCode"] == 0
        assert terminated(pod)["reason"] == "Completed"
        assert terminated(pod)["message"] == "well done"
        assert terminated(pod)["finishedAt"] >= terminated(pod)["startedAt"]


RULES = [
    {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [75, 76]}},
    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "NotIn", "values": [0]}},
]


async def failure_of(subject: Subject) -> str:
    """Return the message of the Job's Failed condition, when it is True."""
    job = await subject.job_has("task", "Failed")
    (failed,) = (c for c in job["status"]["conditions"] if c["type"] == "Failed")
    (target,) = (c for c in job["status"]["conditions"] if c["type"] == "FailureTarget")
    assert failed["reason"] == target["reason"] == "PodFailurePolicy"
    assert failed["message"] == target["message"]
    return str(failed["message"])


@pytest.mark.parametrize(("exit_code", "rule"), [(76, 0), (1, 2)])
async def test_a_pod_failure_policy_says_which_exit_code_the_first_failed_pod_had(
    subject: Subject, exit_code: int, rule: int
) -> None:
    await subject.start_job("task", STAYS, Plan(exit_code=exit_code), rules=RULES)
    message = await failure_of(subject)
    (left,) = await subject.cluster.list(PODS, subject.namespace)
    name = f"{subject.namespace}/{left['metadata']['name']}"
    assert message == (
        f"Container main for pod {name} failed with exit code {exit_code} matching FailJob rule at index {rule}"
    )


async def test_with_a_pod_failure_policy_a_deleted_pod_counts_when_it_has_ended(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS, rules=RULES)
    first, second = await subject.running(2)
    async with subject.watched(PODS) as events:
        await subject.cluster.delete(PODS, subject.namespace, second["metadata"]["name"])
        message = await failure_of(subject)
        await subject.until(lambda: told(events, 2))
    assert message.startswith(
        f"Container main for pod {subject.namespace}/{second['metadata']['name']} failed with exit"
    )
    assert {pod["metadata"]["name"] for pod in deleted(events)} == {
        first["metadata"]["name"],
        second["metadata"]["name"],
    }
    assert await no_pods(subject), "no pod was made in the place of one that was deleted"


async def test_a_failed_pod_fails_the_job_and_its_siblings_are_stopped_and_vanish(subject: Subject) -> None:
    async with subject.watched(PODS) as events:
        await subject.start_job("task", STAYS, Plan(exit_code=76, message="no such column"), Plan(exit_code=None))
        job = await subject.job_has("task", "Failed")
        await subject.until(lambda: told(events, 2))
        siblings = deleted(events)
    (left,) = await subject.cluster.list(PODS, subject.namespace)
    assert left["metadata"]["labels"][LABEL_INDEX] == "1"
    assert left["status"]["phase"] == "Failed"
    assert "deletionTimestamp" not in left["metadata"]
    assert terminated(left)["exitCode"] == 76
    assert terminated(left)["reason"] == "Error"
    assert terminated(left)["message"] == "no such column"
    assert sorted(pod["metadata"]["labels"][LABEL_INDEX] for pod in siblings) == ["0", "2"]
    for pod in siblings:
        assert terminated(pod)["exitCode"] == 75
        assert "deletionTimestamp" in pod["metadata"]
        assert "DisruptionTarget" not in conditions(pod)
    failed = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    assert failed["reason"] == "BackoffLimitExceeded"
    assert failed["message"] == "Job has reached the specified backoff limit"
    assert conditions(job)["FailureTarget"] == "True"
    assert job["status"]["failed"] == 3
    assert "active" not in job["status"]


async def test_a_job_is_failed_only_when_its_last_pod_has_ended(subject: Subject) -> None:
    stubborn = Plan(on_sigterm=None)
    async with subject.watched(PODS) as events:
        await subject.start_job("task", stubborn, Plan(exit_code=1, on_sigterm=None), grace=3)
        job = await subject.job_has("task", "FailureTarget")
        assert "Failed" not in conditions(job)
        assert job["status"]["terminating"] == 1
        await subject.job_has("task", "Failed")
        # A pod's object may exist for a moment after the pod has ended.
        phases = [pod["status"]["phase"] for pod in await subject.cluster.list(PODS, subject.namespace)]
        assert set(phases) == {"Failed"}
        await subject.until(lambda: told(events, 1))
    (sibling,) = deleted(events)
    assert terminated(sibling)["exitCode"] == 137


async def test_a_deleted_pod_fails_the_job_and_leaves_nothing(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS)
    first, _ = await subject.running(2)
    async with subject.watched(PODS) as events:
        await subject.cluster.delete(PODS, subject.namespace, first["metadata"]["name"])
        job = await subject.job_has("task", "Failed")
        await subject.until(lambda: no_pods(subject))
        await subject.until(lambda: told(events, 2))
    assert job["status"]["failed"] == 2
    assert [terminated(pod)["exitCode"] for pod in deleted(events)] == [75, 75]


async def test_a_deleted_pod_has_until_the_end_of_its_grace_period(subject: Subject) -> None:
    await subject.start_job("task", Plan(on_sigterm=None), grace=2)
    (pod,) = await subject.running(1)
    async with subject.watched(PODS) as events:
        await subject.cluster.delete(PODS, subject.namespace, pod["metadata"]["name"])
        await subject.cluster.delete(PODS, subject.namespace, pod["metadata"]["name"])
        await subject.until(lambda: no_pods(subject))
        await subject.until(lambda: told(events, 1))
    first_marked = next(event.object for event in events if "deletionTimestamp" in event.object["metadata"])
    meta = first_marked["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 2
    assert first_marked["status"]["phase"] == "Running"
    (last,) = deleted(events)
    assert terminated(last)["exitCode"] == 137
    asked = datetime.fromisoformat(meta["deletionTimestamp"]) - timedelta(seconds=2)
    started = datetime.fromisoformat(terminated(last)["startedAt"])
    finished = datetime.fromisoformat(terminated(last)["finishedAt"])
    assert started <= asked <= finished


async def test_a_pod_that_has_ended_is_deleted_at_once(subject: Subject) -> None:
    await subject.start_job("task", Plan(exit_code=0), grace=300)
    await subject.job_has("task", "Complete")
    (pod,) = await subject.cluster.list(PODS, subject.namespace)
    await subject.cluster.delete(PODS, subject.namespace, pod["metadata"]["name"])
    await subject.until(lambda: no_pods(subject))
    assert conditions(await subject.cluster.get(JOBS, subject.namespace, "task"))["Complete"] == "True"


async def test_a_suspended_job_loses_its_pods_without_failing_and_can_be_resumed(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS)
    first = await subject.running(2)
    await subject.edit(JOBS, "task", lambda obj: obj["spec"].update(suspend=True))
    job = await subject.job_has("task", "Suspended")
    await subject.until(lambda: no_pods(subject))
    assert "FailureTarget" not in conditions(job)
    job = await subject.cluster.get(JOBS, subject.namespace, "task")
    assert "failed" not in job["status"]
    assert "startTime" not in job["status"]
    suspended = next(c for c in job["status"]["conditions"] if c["type"] == "Suspended")
    assert (suspended["reason"], suspended["message"]) == ("JobSuspended", "Job suspended")
    await subject.edit(JOBS, "task", lambda obj: obj["spec"].update(suspend=False))
    second = await subject.running(2)
    assert {p["metadata"]["uid"] for p in first}.isdisjoint(p["metadata"]["uid"] for p in second)
    job = await subject.cluster.get(JOBS, subject.namespace, "task")
    assert conditions(job)["Suspended"] == "False"
    assert job["status"]["startTime"]


async def test_a_deleted_job_takes_its_pods_along(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS)
    await subject.running(2)
    async with subject.watched(PODS) as events:
        await subject.cluster.delete(JOBS, subject.namespace, "task")
        await subject.until(lambda: no_pods(subject))
        await subject.until(lambda: told(events, 2))
    assert [terminated(pod)["exitCode"] for pod in deleted(events)] == [75, 75]
    assert await subject.cluster.list(JOBS, subject.namespace) == []


async def test_pods_that_are_refused_are_told_by_an_event_of_their_job_and_tried_again(subject: Subject) -> None:
    await subject.refuse_pods(True)
    job = await subject.start_job("task", STAYS, STAYS)
    fields = {"involvedObject.uid": job["metadata"]["uid"], "reason": "FailedCreate"}
    event, *_ = await subject.until(lambda: subject.cluster.list(CORE_EVENTS, subject.namespace, fields=fields))
    assert (event["type"], event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (
        "Warning",
        "Job",
        "task",
    )
    assert event["message"].startswith('Error creating: pods "task-')
    assert "is forbidden: " in event["message"]
    assert event["lastTimestamp"] >= job["metadata"]["creationTimestamp"]
    assert await no_pods(subject)
    job = await subject.cluster.get(JOBS, subject.namespace, "task")
    assert conditions(job).get("FailureTarget") is None, "to be refused is no failure"
    await subject.refuse_pods(False)
    await subject.running(2)
