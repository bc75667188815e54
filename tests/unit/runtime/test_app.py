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
from finetune_operator.protocol import FINETUNEJOBS, ApiError, NotFoundError, Object, Resource
from finetune_operator.runtime.app import operate
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


async def test_a_cluster_without_the_kind_ends_the_operator_at_once_with_the_server_s_word() -> None:
    cluster = Stumbling(lambda count: NotFoundError(404, "NotFound", "the server could not find finetunejobs"))

    async def inform(intake: Intake) -> None:
        pytest.fail("an informer would wait for ever for a kind that comes later")

    with pytest.raises(NotFoundError):
        await operate(cluster, SETTINGS, inform)
    await cluster.close()


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
