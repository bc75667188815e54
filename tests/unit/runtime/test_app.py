"""The operator's start and its periodic look at everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from support.clusters import SETTINGS
from support.manifests import manifest

from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.local.scripted import ScriptedDriver
from finetune_operator.protocol import FINETUNEJOBS, ApiError, ForbiddenError, NotFoundError, Object, Resource
from finetune_operator.runtime.app import operate
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake


class Stumbling(LocalCluster):
    """Fails in the lists of FineTuneJobs that `fails` names, counted from 1."""

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
    await cluster.create(FINETUNEJOBS, manifest())

    async def sees_nothing(intake: Intake) -> None:
        await asyncio.Event().wait()

    operator = asyncio.create_task(operate(cluster, SETTINGS, sees_nothing, resync=0.01))
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
        await operate(cluster, SETTINGS, inform, health=health, pauses=(0.0, 0.001))
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
    await operate(cluster, SETTINGS, inform, health=health, pauses=(0.0,))
    await cluster.close()
    assert started == [None, None, None], "ready again each time"


async def test_the_workers_are_there_before_the_informer_starts() -> None:
    """kopf takes every task that comes after its own start for one of its own, and cancels it when it ends."""
    before = len(asyncio.all_tasks())
    there = 0

    async def ends(intake: Intake) -> None:
        nonlocal there
        there = len(asyncio.all_tasks()) - before

    cluster = Stumbling(lambda count: None)
    await operate(cluster, SETTINGS, ends)
    await cluster.close()
    assert there >= 16
