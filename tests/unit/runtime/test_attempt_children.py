"""Somebody deletes a child of a running attempt. The tests use the in-memory cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from support.bench import KEY, Bench, bench
from support.clusters import SETTINGS, World, condition, operated, run_of
from support.manifests import manifest

from finetune_operator.constants import Phase
from finetune_operator.core.settings import Network, Settings
from finetune_operator.protocol import (
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    NETWORKPOLICIES,
    SERVICES,
    ApiError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_operator.runtime.attempt_children import LASTS
from finetune_operator.runtime.job_memory import JobMemories
from finetune_operator.runtime.reconciler import Reconciler

CHILDREN = (CONFIGMAPS, SERVICES, NETWORKPOLICIES)
FAST: Settings = replace(SETTINGS, waiting_interval=0.05)
GUARDED: Settings = replace(FAST, network=Network())


async def again(world: World, resource: Resource, name: str) -> Object:
    """Return the child as soon as it exists."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await world.cluster.get(resource, "default", name)
            except NotFoundError:
                await asyncio.sleep(0.005)


async def notes(world: World, reason: str) -> list[str]:
    events = await world.cluster.list(EVENTS, "default")
    return [event["note"] for event in events if event["reason"] == reason]


@pytest.mark.parametrize("resource", CHILDREN, ids=lambda resource: resource.kind)
async def test_a_deleted_child_is_made_again_as_it_was_and_one_event_tells(resource: Resource) -> None:
    async with operated(GUARDED, automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        (child,) = await world.cluster.list(resource, "default")
        name = child["metadata"]["name"]
        await world.cluster.delete(resource, "default", name)
        made = await again(world, resource, name)
        assert made["metadata"]["uid"] != child["metadata"]["uid"]
        for part in ("data", "spec", "immutable"):
            assert made.get(part) == child.get(part)
        for part in ("labels", "ownerReferences"):
            assert made["metadata"][part] == child["metadata"][part]
        async with asyncio.timeout(10):
            while not (told := await notes(world, "MadeAgain")):
                await asyncio.sleep(0.005)
        assert told == [
            f"{resource.kind} {name} of attempt 1 of run 1 was deleted while it was needed, and is made again"
        ]
        status = await world.status()
        assert (run_of(status).attempt, status.ledger) == (1, [])


async def test_children_that_are_deleted_one_after_another_are_each_made_again_at_once() -> None:
    """While the operator creates the first one again, the event of the second deletion arrives."""
    async with operated(GUARDED, automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        for resource in CHILDREN:
            (child,) = await world.cluster.list(resource, "default")
            name = child["metadata"]["name"]
            await world.cluster.delete(resource, "default", name)
            assert (await again(world, resource, name))["metadata"]["uid"] != child["metadata"]["uid"]


async def test_a_configuration_that_was_edited_meanwhile_gives_way_to_another_attempt() -> None:
    async with operated(FAST, automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.checkpoint.everyMinutes": 3})
        await world.until(lambda s: s.observed_generation == 2)
        await world.cluster.delete(CONFIGMAPS, "default", pod["metadata"]["labels"]["job-name"])
        await world.pods_of_attempt(2, 1)
        (entry,) = (await world.status()).ledger
        assert (entry.class_, entry.counted) == ("Preempted", False)
        (config,) = await world.cluster.list(CONFIGMAPS, "default")
        assert '"everySeconds":180' in config["data"]["run.json"].replace(" ", "")


async def test_a_configuration_that_was_edited_meanwhile_is_not_missed_by_pods_that_run() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.say(pod, run_of(await world.status()), step=3)
        await world.until(lambda s: s.phase == Phase.TRAINING)
        await world.edit(**{"spec.checkpoint.everyMinutes": 3})
        await world.until(lambda s: s.observed_generation == 2)
        await world.cluster.delete(CONFIGMAPS, "default", pod["metadata"]["labels"]["job-name"])
        async with asyncio.timeout(10):
            while not (told := await notes(world, "NotMadeAgain")):
                await asyncio.sleep(0.005)
        assert len(told) == 1
        world.say(pod, run_of(await world.status()), step=4)
        status = await world.until(lambda s: s.progress and s.progress.step == 4)
        assert (run_of(status).attempt, status.ledger) == (1, [])


async def test_an_object_of_the_same_name_that_is_not_ours_is_left_alone_and_an_event_says_so() -> None:
    async with with_attempt() as made:
        (service,) = await made.cluster.list(SERVICES, "default")
        name = service["metadata"]["name"]
        await made.cluster.delete(SERVICES, "default", name)
        metadata = {"name": name, "namespace": "default"}
        theirs = await made.cluster.create(SERVICES, {**service, "metadata": metadata})
        await a_fresh_operator(made).reconcile(KEY)
        assert await made.cluster.get(SERVICES, "default", name) == theirs
        (told,) = await notes(made.world, "NameConflict")
        assert told.startswith(f"Service {name} exists and is not ours")
        assert condition(await made.world.status(), "Stalled")[0] == "False", "the attempt goes on"


@asynccontextmanager
async def with_attempt() -> AsyncIterator[Bench]:
    """Yield a running attempt and an operator that receives no events."""
    async with bench() as made:
        await made.cluster.create(FINETUNEJOBS, manifest())
        await made.reconcile_until(lambda s: s.run and s.run.job_uid)
        yield made


def a_fresh_operator(made: Bench) -> Reconciler:
    return Reconciler(made.cluster, made.reconciler.settings, JobMemories(), now=lambda: made.now)


async def gone(made: Bench, resource: Resource) -> bool:
    return await made.cluster.list(resource, "default") == []


async def test_an_operator_that_starts_notices_what_was_deleted_before() -> None:
    async with with_attempt() as made:
        for resource in (CONFIGMAPS, SERVICES):
            (child,) = await made.cluster.list(resource, "default")
            await made.cluster.delete(resource, "default", child["metadata"]["name"])
        await a_fresh_operator(made).reconcile(KEY)
        assert not await gone(made, CONFIGMAPS)
        assert not await gone(made, SERVICES)


async def test_a_deletion_of_which_no_event_came_is_noticed_after_ten_minutes() -> None:
    async with with_attempt() as made:
        (service,) = await made.cluster.list(SERVICES, "default")
        await made.cluster.delete(SERVICES, "default", service["metadata"]["name"])
        made.now += timedelta(seconds=LASTS - 1)
        await made.reconciler.reconcile(KEY)
        assert await gone(made, SERVICES)
        made.now += timedelta(seconds=31)  # an observation is kept for half a minute
        await made.reconciler.reconcile(KEY)
        assert not await gone(made, SERVICES)


async def test_children_are_looked_up_once_by_an_operator_that_starts_and_not_with_each_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with with_attempt() as made:
        read: Counter[str] = Counter()
        get = made.cluster.get

        async def counted(resource: Resource, namespace: str, name: str) -> Object:
            read[resource.kind] += 1
            return await get(resource, namespace, name)

        monkeypatch.setattr(made.cluster, "get", counted)
        await made.reconciler.reconcile(KEY)
        assert not {"ConfigMap", "Service"} & read.keys(), "it has made them itself"
        other = a_fresh_operator(made)
        for _ in range(3):
            made.now += timedelta(seconds=60)
            await other.reconcile(KEY)
        assert (read["ConfigMap"], read["Service"], read["Job"]) == (1, 1, 3)


async def test_a_child_that_is_refused_is_tried_again_and_the_attempt_goes_on() -> None:
    async with with_attempt() as made:
        (service,) = await made.cluster.list(SERVICES, "default")
        await made.cluster.delete(SERVICES, "default", service["metadata"]["name"])
        other = a_fresh_operator(made)
        made.cluster.refused = "Service"
        await other.reconcile(KEY)
        (told,) = await notes(made.world, "Refused")
        assert told.endswith("exceeded quota")
        assert condition(await made.world.status(), "Stalled")[0] == "False"
        made.cluster.refused = ""
        made.now += timedelta(seconds=60)
        await other.reconcile(KEY)
        assert not await gone(made, SERVICES)


@pytest.mark.parametrize("resource", [CONFIGMAPS, SERVICES], ids=lambda resource: resource.kind)
async def test_a_child_that_could_not_be_made_at_once_is_made_with_the_next_look(
    resource: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server fails in between, and no further event follows."""
    async with with_attempt() as made:
        (child,) = await made.cluster.list(resource, "default")
        await made.cluster.delete(resource, "default", child["metadata"]["name"])
        other = a_fresh_operator(made)

        async def stumble(kind: Resource, manifest: Object) -> Object:
            raise ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")

        with monkeypatch.context() as stumbling:
            stumbling.setattr(made.cluster, "create", stumble)
            with pytest.raises(ApiError):
                await other.reconcile(KEY)
        await other.reconcile(KEY)
        assert not await gone(made, resource)
