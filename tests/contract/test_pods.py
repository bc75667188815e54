"""Tests of pods: what is read from them, and how they report why they do not run or were deleted."""

from __future__ import annotations

import time

import pytest
from support.contract import ANSWERS, PORT, STAYS, Plan, Subject, conditions, terminated

from finetune_operator.protocol import JOBS, PODS, Object

REAL = pytest.param("real", marks=pytest.mark.cluster)


async def answering(subject: Subject) -> Object:
    """Return a pod whose agent has answered once."""
    pod = await subject.start_server("agent")

    async def answers() -> bool:
        return await subject.cluster.pod_status(pod, PORT, "/status", 100, 2) is not None

    await subject.until(answers)
    return pod


async def test_a_pod_is_asked_for_its_status(subject: Subject) -> None:
    pod = await answering(subject)
    assert await subject.cluster.pod_status(pod, PORT, "/status", 100, 2) == ANSWERS["/status"]
    assert await subject.cluster.pod_status(pod, PORT, "/long", 20_000, 2) == ANSWERS["/long"]


async def test_an_answer_over_the_limit_is_none(subject: Subject) -> None:
    pod = await answering(subject)
    assert await subject.cluster.pod_status(pod, PORT, "/long", 19_999, 2) is None


@pytest.mark.parametrize("subject", ["processes", REAL], indirect=True)
@pytest.mark.parametrize("path", ["/redirect", "/broken", "/endless", "/drip"])
async def test_an_answer_that_is_not_plain_and_in_time_is_none(subject: Subject, path: str) -> None:
    pod = await answering(subject)
    started = time.monotonic()
    assert await subject.cluster.pod_status(pod, PORT, path, 10_000, 1) is None
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("subject", ["processes", REAL], indirect=True)
async def test_an_answer_is_not_unpacked(subject: Subject) -> None:
    pod = await answering(subject)
    assert await subject.cluster.pod_status(pod, PORT, "/compressed", 10_000, 2) == b"something"


async def test_nothing_is_heard_of_a_pod_that_does_not_run(subject: Subject) -> None:
    await subject.start_job("task", Plan(exit_code=0))
    await subject.job_has("task", "Complete")
    (pod,) = await subject.cluster.list(PODS, subject.namespace)
    assert await subject.cluster.pod_status(pod, PORT, "/status", 100, 1) is None
    assert await subject.cluster.pod_status({**pod, "status": {}}, PORT, "/status", 100, 1) is None


@pytest.mark.parametrize("subject", ["processes", REAL], indirect=True)
async def test_a_pod_whose_secret_is_missing_waits_and_names_it(subject: Subject) -> None:
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}
    await subject.start_job("task", STAYS, container={"env": [token]})

    async def waiting() -> Object | None:
        for pod in await subject.cluster.list(PODS, subject.namespace):
            for status in pod["status"].get("containerStatuses", []):
                if "message" in status["state"].get("waiting", {}):
                    state: Object = status["state"]["waiting"]
                    return state
        return None

    state = await subject.until(waiting)
    assert state == {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}
    (pod,) = await subject.cluster.list(PODS, subject.namespace)
    assert pod["status"]["phase"] == "Pending"


@pytest.mark.parametrize("subject", ["scripted", REAL], indirect=True)
async def test_a_container_that_takes_too_much_memory_is_killed_and_says_why(subject: Subject) -> None:
    await subject.run_out_of_memory("task")
    await subject.job_has("task", "Failed")
    (pod,) = await subject.cluster.list(PODS, subject.namespace)
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (137, "OOMKilled")
    assert "message" not in terminated(pod)


@pytest.mark.parametrize("subject", ["scripted", REAL], indirect=True)
async def test_an_evicted_pod_is_marked_before_it_goes_and_its_siblings_are_not(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS)
    first, second = await subject.running(2)
    async with subject.watched(PODS) as events:
        await subject.evict(first)
        await subject.job_has("task", "Failed")

        async def both_are_told() -> bool:
            return [event.type for event in events].count("DELETED") == 2

        await subject.until(both_are_told)
    last = {event.object["metadata"]["uid"]: event.object for event in events}
    evicted, sibling = last[first["metadata"]["uid"]], last[second["metadata"]["uid"]]
    marked = next(c for c in evicted["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert (marked["status"], marked["reason"]) == ("True", "EvictionByEvictionAPI")
    assert marked["message"] == "Eviction API: evicting"
    assert "DisruptionTarget" not in conditions(sibling)
    assert terminated(evicted)["exitCode"] == 75
    assert (await subject.cluster.get(JOBS, subject.namespace, "task"))["status"]["failed"] == 2


AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
APART_AND_SOON_TAKEN = {
    "tolerations": [
        {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1} for taint in AWAY
    ],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"example": "task"}}}
            ]
        }
    },
}
"""The pod spec for one pod per node, with pods that are deleted as soon as the loss of their node is known."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("subject", ["scripted", REAL], indirect=True)
async def test_the_pod_of_a_lost_node_is_marked_and_holds_its_job_until_the_node_is_back(subject: Subject) -> None:
    await subject.start_job("task", STAYS, STAYS, **APART_AND_SOON_TAKEN)
    _, lost = sorted(await subject.running(2), key=lambda pod: pod["spec"]["nodeName"])

    async def only_pod() -> Object | None:
        pods = await subject.cluster.list(PODS, subject.namespace)
        return pods[0] if len(pods) == 1 else None

    async def no_pod() -> bool:
        return not await subject.cluster.list(PODS, subject.namespace)

    async with subject.without_node(lost["spec"]["nodeName"]):
        held = await subject.until(only_pod, seconds=120)
        assert held["metadata"]["uid"] == lost["metadata"]["uid"]
        assert held["status"]["phase"] == "Running"
        assert "deletionTimestamp" in held["metadata"]
        marked = next(c for c in held["status"]["conditions"] if c["type"] == "DisruptionTarget")
        assert (marked["status"], marked["reason"]) == ("True", "DeletionByTaintManager")
        assert marked["message"] == "Taint manager: deleting due to NoExecute taint"
        job = await subject.job_has("task", "FailureTarget")
        assert "Failed" not in conditions(job)
    await subject.until(no_pod, seconds=120)
    await subject.job_has("task", "Failed")
