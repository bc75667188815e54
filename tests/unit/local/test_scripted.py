"""The in-memory cluster with pods that the test controls, lost nodes and virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from support.jobs import config_map, job, owned_by
from support.scripted import ScriptedDriver

from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.jobs import index_ranges
from finetune_operator.protocol import CONFIGMAPS, JOBS, PODS, Event, Object


class VirtualClock:
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._now + seconds, woken))
        await woken.wait()

    async def pass_(self, seconds: float) -> None:
        """Advance the time and let all tasks run."""
        self._now += seconds
        for until, woken in self._sleepers:
            if until <= self._now:
                woken.set()
        await settle()


async def settle() -> None:
    """Let the controllers run."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(driver: ScriptedDriver, clock: VirtualClock | None = None) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(driver, clock=clock, randomness=random.Random(1))
    cluster.add_namespace("lab")
    await cluster.start()
    yield cluster
    await cluster.close()


async def pods_of(cluster: LocalCluster) -> list[Object]:
    await settle()
    return await cluster.list(PODS, "lab")


async def conditions(cluster: LocalCluster, name: str = "task") -> dict[str, str]:
    await settle()
    found = await cluster.get(JOBS, "lab", name)
    return {c["type"]: c["status"] for c in found["status"].get("conditions", [])}


async def test_a_pod_waits_until_it_is_scheduled_and_run() -> None:
    driver = ScriptedDriver()
    async with running(driver) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=1))
        (pod,) = await pods_of(cluster)
        assert pod["status"] == {"phase": "Pending"}
        driver.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        (pod,) = await pods_of(cluster)
        (condition,) = pod["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == (
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        driver.schedule(pod, "node-7")
        driver.wait(pod, "ImagePullBackOff", "no such image")
        (pod,) = await pods_of(cluster)
        assert pod["spec"]["nodeName"] == "node-7"
        assert pod["status"]["containerStatuses"][0]["state"] == {
            "waiting": {"reason": "ImagePullBackOff", "message": "no such image"}
        }
        driver.run(pod)
        (pod,) = await pods_of(cluster)
        assert pod["status"]["phase"] == "Running"


async def test_a_pod_without_a_node_is_deleted_at_once_and_counts_as_failed() -> None:
    driver = ScriptedDriver(sigterm_exit_code=None)
    async with running(driver) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=2))
        first, _ = await pods_of(cluster)
        await cluster.delete(PODS, "lab", first["metadata"]["name"])
        assert await conditions(cluster) == {"FailureTarget": "True", "Failed": "True"}
        assert await pods_of(cluster) == []
        assert (await cluster.get(JOBS, "lab", "task"))["status"]["failed"] == 2


async def test_a_lost_node_holds_its_pods_and_the_job_until_it_is_back() -> None:
    driver = ScriptedDriver(automatic=True)
    async with running(driver) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=2))
        await settle()
        driver.lose_node("node-1")
        assert await conditions(cluster) == {"FailureTarget": "True"}
        (held,) = await pods_of(cluster)
        assert held["spec"]["nodeName"] == "node-1"
        assert held["status"]["phase"] == "Running"
        assert "deletionTimestamp" in held["metadata"]
        marked = next(c for c in held["status"]["conditions"] if c["type"] == "DisruptionTarget")
        assert marked["reason"] == "DeletionByTaintManager"
        assert await cluster.pod_status(held, 80, "/status", 100, 1) is None
        driver.return_node("node-1")
        assert await conditions(cluster) == {"FailureTarget": "True", "Failed": "True"}
        assert await pods_of(cluster) == []


async def test_sigkill_comes_when_the_grace_period_of_the_clock_is_over() -> None:
    clock = VirtualClock()
    driver = ScriptedDriver(automatic=True, sigterm_exit_code=None)
    async with running(driver, clock) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=1, grace=300))
        (pod,) = await pods_of(cluster)
        await cluster.delete(PODS, "lab", pod["metadata"]["name"])
        (pod,) = await pods_of(cluster)
        assert pod["metadata"]["deletionTimestamp"] == "2027-01-15T08:05:00Z"
        await clock.pass_(299)
        assert len(await pods_of(cluster)) == 1
        await clock.pass_(1)
        assert await pods_of(cluster) == []


async def test_a_driver_that_acts_at_once_does_not_turn_the_order_of_events() -> None:
    async with running(ScriptedDriver(automatic=True)) as cluster:
        events: list[Event] = []

        async def watch() -> None:
            async for event in cluster.watch(PODS, "lab"):
                events.append(event)

        task = asyncio.create_task(watch())
        await settle()
        await cluster.create(JOBS, job("task", "lab", "true", pods=3))
        await settle()
        (pod, *_) = await cluster.list(PODS, "lab")
        await cluster.delete(PODS, "lab", pod["metadata"]["name"])
        await settle()
        task.cancel()
    versions = [int(event.object["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(versions)
    of_pod = [e.type for e in events if e.object["metadata"]["uid"] == pod["metadata"]["uid"]]
    assert of_pod[0] == "ADDED"
    assert of_pod[-1] == "DELETED"
    assert set(of_pod[1:-1]) == {"MODIFIED"}


async def test_with_a_backoff_limit_a_failed_index_gets_a_new_pod() -> None:
    driver = ScriptedDriver(automatic=True)
    async with running(driver) as cluster:
        made = job("task", "lab", "true", pods=2)
        made["spec"]["backoffLimit"] = 1
        await cluster.create(JOBS, made)
        first, _ = await pods_of(cluster)
        driver.finish(first, 1)
        assert await conditions(cluster) == {}
        pods = await pods_of(cluster)
        assert [pod["status"]["phase"] for pod in pods].count("Running") == 2
        running_pods = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        for pod in running_pods:
            driver.finish(pod, 0)
        assert (await conditions(cluster))["Complete"] == "True"


async def test_a_succeeded_pod_that_vanishes_still_counts() -> None:
    driver = ScriptedDriver(automatic=True)
    async with running(driver) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=2))
        first, second = await pods_of(cluster)
        driver.finish(first, 0)
        await settle()
        await cluster.delete(PODS, "lab", first["metadata"]["name"])
        driver.finish(second, 0)
        assert (await conditions(cluster))["Complete"] == "True"
        assert (await cluster.get(JOBS, "lab", "task"))["status"]["completedIndexes"] == "0,1"


async def test_a_disobedient_pod_does_not_outlive_close() -> None:
    driver = ScriptedDriver(automatic=True, sigterm_exit_code=None)
    async with running(driver) as cluster:
        await cluster.create(JOBS, job("task", "lab", "true", pods=1, grace=3600))
        (pod,) = await pods_of(cluster)
        await cluster.delete(PODS, "lab", pod["metadata"]["name"])
        await settle()
    assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_idle_waits_for_the_last_pod() -> None:
    driver = ScriptedDriver(automatic=True, sigterm_exit_code=None)
    async with running(driver) as cluster:
        owner = await cluster.create(CONFIGMAPS, config_map("owner", "lab"))
        await cluster.create(JOBS, owned_by(owner, job("task", "lab", "true", pods=1)))
        (pod,) = await pods_of(cluster)
        waiting = asyncio.create_task(cluster.idle())
        await cluster.delete(CONFIGMAPS, "lab", "owner")
        await settle()
        assert not waiting.done()
        driver.finish(pod, 75)
        async with asyncio.timeout(5):
            await waiting
        assert await pods_of(cluster) == []


async def test_the_same_seed_gives_the_same_names() -> None:
    names = []
    for _ in range(2):
        async with running(ScriptedDriver()) as cluster:
            await cluster.create(JOBS, job("task", "lab", "true", pods=3))
            names.append([pod["metadata"]["name"] for pod in await pods_of(cluster)])
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [((), ""), ((0,), "0"), ((0, 1), "0,1"), ((2, 0, 1), "0-2"), ((0, 1, 3), "0,1,3"), ((0, 2, 3, 4, 9), "0,2-4,9")],
)
def test_completed_indexes_are_written_as_ranges(indexes: tuple[int, ...], expected: str) -> None:
    assert index_ranges(indexes) == expected


async def test_controllers_act_after_their_lag() -> None:
    clock = VirtualClock()
    cluster = LocalCluster(ScriptedDriver(), clock=clock, lag=lambda: 3.0)
    cluster.add_namespace("lab")
    await cluster.start()
    await cluster.create(JOBS, job("task", "lab", "true", pods=1))
    assert await pods_of(cluster) == []
    await clock.pass_(3)
    assert len(await pods_of(cluster)) == 1
    await cluster.close()
