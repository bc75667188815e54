"""The operator's start, its periodic list of all jobs, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from support.clusters import SETTINGS, claim
from support.jobs import config_map
from support.manifests import manifest
from support.operators import Scene, in_virtual_time, silent_about_leases
from support.scripted import ScriptedDriver

from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    FINETUNEJOBS,
    LEASES,
    ApiError,
    Cluster,
    ForbiddenError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_operator.runtime.app import DRAIN, Options, operate
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.job_memory import Key
from finetune_operator.runtime.leader import RELEASE_FOR


class Stumbling(LocalCluster):
    """A cluster in which those lists of FineTuneJobs fail that `fails` selects. They are counted from 1."""

    def __init__(self, fails: Callable[[int], ApiError | None]) -> None:
        super().__init__(ScriptedDriver(), admit=admit)
        self.add_namespace("default")
        self._fails = fails
        self._lists = 0

    async def list(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        if resource == FINETUNEJOBS:
            self._lists += 1
            if error := self._fails(self._lists):
                raise error
        return await super().list(resource, namespace, labels)


async def test_an_api_server_that_is_away_when_everything_is_looked_at_does_not_end_the_operator() -> None:
    cluster = Stumbling(lambda count: ApiError(0, "Unreachable", "no route") if count in (2, 3) else None)
    await cluster.create(CLAIMS, claim("finetune", "ReadWriteMany"))
    await cluster.create(FINETUNEJOBS, manifest())

    async def sees_nothing(intake: Intake) -> None:
        await asyncio.Event().wait()

    operator = asyncio.create_task(operate(cluster, SETTINGS, sees_nothing, Options(resync=0.01)))
    try:
        async with asyncio.timeout(10):
            while not (await cluster.get(FINETUNEJOBS, "default", "clauses"))["status"].get("run"):
                assert not operator.done()
                await asyncio.sleep(0.005)
    finally:
        operator.cancel()
        await asyncio.gather(operator, return_exceptions=True)
        await cluster.close()


NO_KIND = NotFoundError(404, "", "404 page not found")
NO_RIGHT = ForbiddenError(403, "Forbidden", 'finetunejobs.finetune.dev is forbidden: User "x" cannot list resource')
AWAY = ApiError(0, "Unreachable", "the API server was not reached: no route to host")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NO_KIND, "the cluster does not know FineTuneJobs; run: finetune crd | kubectl apply --server-side -f -"),
        (NO_RIGHT, NO_RIGHT.message),
        (AWAY, AWAY.message),
        (ApiError(500, "InternalError", "etcd is away"), "the API server says 500 InternalError: etcd is away"),
    ],
    ids=["no kind", "no right", "no server", "a stumbling server"],
)
async def test_what_stands_in_the_way_is_told_in_one_sentence_and_tried_again(
    error: ApiError, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str | None] = []
    health = Health()

    def fails(count: int) -> ApiError | None:
        told.append(health.not_ready)
        return error if count <= 4 else None

    async def inform(intake: Intake) -> None:
        told.append(health.not_ready)

    cluster = Stumbling(fails)
    async with asyncio.timeout(10):
        await operate(cluster, SETTINGS, inform, Options(health=health, pauses=(0.0, 0.001)))
    await cluster.close()
    assert told[1:] == [sentence] * 4 + [None]
    assert [record.getMessage() for record in caplog.records] == [sentence], "once, not at every try"
    assert not any(record.exc_info for record in caplog.records)


async def test_an_informer_whose_watches_end_is_started_again() -> None:
    started: list[str | None] = []
    health = Health()

    async def inform(intake: Intake) -> None:
        started.append(health.not_ready)
        if len(started) < 3:
            raise ApiError(0, "WatchesEnded", "the watches have ended: 404")

    cluster = Stumbling(lambda count: None)
    await operate(cluster, SETTINGS, inform, Options(health=health, pauses=(0.0,)))
    await cluster.close()
    assert started == [None, None, None], "ready again each time"


async def test_the_workers_are_there_before_the_informer_starts() -> None:
    """kopf considers every task that starts after itself as its own, and cancels it when kopf ends."""
    before = len(asyncio.all_tasks())
    there = 0

    async def ends(intake: Intake) -> None:
        nonlocal there
        there = len(asyncio.all_tasks()) - before

    cluster = Stumbling(lambda count: None)
    await operate(cluster, SETTINGS, ends)
    await cluster.close()
    assert there >= 16


# ---- the end --------------------------------------------------------------------------------------------------------


class Slow:
    """A reconciler that takes some seconds and records when it was not interrupted."""

    def __init__(self, seconds: float, done: list[float], cluster: Cluster, *_: Any, **named: Any) -> None:
        self._seconds = seconds
        self._done = done
        self._cluster = cluster

    async def reconcile(self, key: Key) -> float:
        await asyncio.sleep(self._seconds)
        await self._cluster.create(CONFIGMAPS, config_map(f"{key.name}-{len(self._done)}", "default"))
        self._done.append(asyncio.get_running_loop().time())
        return 0

    def forget(self, key: Key) -> None:
        """Do nothing, because nothing is remembered."""


@pytest.mark.parametrize(("seconds", "takes"), [(3.0, (0, 3)), (60.0, (DRAIN, DRAIN))])
def test_on_its_end_an_operator_finishes_what_is_under_way_or_gives_up_and_then_gives_the_lease_back(
    seconds: float, takes: tuple[float, float]
) -> None:
    async def scene(scene: Scene) -> None:
        done: list[float] = []
        await scene.cluster.create(FINETUNEJOBS, manifest())
        operator = scene.start("one", make_reconciler=partial(Slow, seconds, done))
        await asyncio.sleep(100)
        assert operator.leads
        before = len(done)
        took = await operator.ended()
        assert takes[0] <= took <= takes[1] + 0.1
        assert len(done) - before == (1 if seconds < DRAIN else 0)
        assert (await scene.lease())["spec"]["holderIdentity"] == ""
        assert operator.health.unready == "the operator is ending"
        assert not operator.leads
        await asyncio.sleep(100)
        assert len(done) - before <= 1, "nothing is begun"

    in_virtual_time(scene)


def test_the_lease_is_given_back_though_the_last_renewal_was_not_answered() -> None:
    async def scene(scene: Scene) -> None:
        operator = scene.start("one")
        await scene.until(lambda: operator.leads)

        async def unanswered(resource: Resource) -> None:
            """Write the Lease but do not answer."""
            if resource == LEASES:
                operator.connection.fault = None
                lease = await scene.lease()
                lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
                await scene.cluster.put(LEASES, lease)
                await asyncio.Event().wait()

        operator.connection.fault = unanswered
        await asyncio.sleep(6)
        assert await operator.ended() < 3
        assert (await scene.lease())["spec"]["holderIdentity"] == ""

    in_virtual_time(scene)


def test_an_api_server_that_does_not_answer_does_not_hold_up_the_end() -> None:
    async def scene(scene: Scene) -> None:
        operator = scene.start("one")
        await scene.until(lambda: operator.leads)
        operator.connection.fault = silent_about_leases
        assert await operator.ended() <= RELEASE_FOR + 0.1
        assert (await scene.lease())["spec"]["holderIdentity"] == "one"

    in_virtual_time(scene)


def test_who_waits_to_lead_ends_without_touching_the_lease() -> None:
    async def scene(scene: Scene) -> None:
        leader = scene.start("one")
        await scene.until(lambda: leader.leads)
        standby = scene.start("other")
        await asyncio.sleep(4)
        assert await standby.ended() < 0.1
        assert (await scene.lease())["spec"]["holderIdentity"] == "one"

    in_virtual_time(scene)


async def test_the_informer_ends_last() -> None:
    """kopf cancels the tasks that it finds when it ends, and these may belong to running reconciles."""
    ended: list[str] = []
    begun, stop = asyncio.Event(), asyncio.Event()

    class Noting:
        def __init__(self, *_: Any, **named: Any) -> None:
            pass

        async def reconcile(self, key: Key) -> None:
            begun.set()
            while not stop.is_set():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            ended.append("the reconcile")

    async def inform(intake: Intake) -> None:
        intake.saw(FINETUNEJOBS, {"metadata": {"namespace": "default", "name": "clauses", "uid": "u"}})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("the informer")

    cluster = Stumbling(lambda count: None)
    operator = asyncio.create_task(
        operate(cluster, SETTINGS, inform, Options(stop=stop, make_reconciler=Noting))  # type: ignore[arg-type]  # all that is used
    )
    await asyncio.wait_for(begun.wait(), 5)
    stop.set()
    await asyncio.wait_for(operator, 5)
    await cluster.close()
    assert ended == ["the reconcile", "the informer"]
