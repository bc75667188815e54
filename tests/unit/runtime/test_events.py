"""The events of a job as `kubectl describe` lists them: one for each transition."""

from __future__ import annotations

import asyncio
from functools import partial

from support.clusters import SETTINGS, World, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.constants import Phase
from finetune_operator.protocol import CONFIGMAPS, EVENTS, FINETUNEJOBS, ForbiddenError, Object, Resource
from finetune_operator.runtime.app import operate
from finetune_operator.runtime.watch import inform
from finetune_trainer.contract import Phase as RankPhase


async def told(world: World, at_least: int) -> list[str]:
    """Return the type and the reason of each event, in the order of their times."""
    async with asyncio.timeout(10):
        while len(events := await world.cluster.list(EVENTS, "default")) < at_least:
            await asyncio.sleep(0.005)
    return [f"{e['type']} {e['reason']}" for e in sorted(events, key=lambda e: str(e["eventTime"]))]


async def test_an_attempt_that_failed_and_one_that_completed() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        run = run_of(await world.status())
        world.driver.finish(pod, 79, last_words(pod, run, 79, error="no step for 10 minutes", error_time=1.0))
        await world.succeed(await world.pods_of_attempt(2, 1))
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        assert await told(world, 2) == ["Warning Restarting", "Normal Complete"]
        events = await world.cluster.list(EVENTS, "default")
        (note,) = [event["note"] for event in events if event["reason"] == "Restarting"]
        assert note.startswith("Attempt 2 of run 1 starts now")
        assert "ended as Hung (exit code 79, node " in note
        assert note.endswith("): no step for 10 minutes")


async def test_the_last_attempt_is_told_by_the_failure_of_its_run() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.faultTolerance": {"maxRestarts": 0}}))
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.finish(pod, 79)
        await world.until(lambda s: s.phase == Phase.FAILED)
        assert await told(world, 1) == ["Warning Failed"]


async def test_a_job_that_is_suspended_and_resumed() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.suspend": True})
        await world.until(lambda s: s.phase == Phase.SUSPENDED)
        await world.edit(**{"spec.suspend": False})
        await world.pods_of_attempt(2, 1)
        assert await told(world, 2) == ["Normal Suspended", "Normal Resumed"]


async def test_ranks_that_go_to_and_fro_between_training_and_saving_make_no_more_events() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        run = run_of(await world.status())
        for step in range(1, 6):
            world.say(pod, run, step=step)
            await world.until(lambda s: s.phase == Phase.TRAINING)
            world.say(pod, run, phase=RankPhase.EXPORT, step=step)
            await world.until(lambda s: s.phase == Phase.EXPORTING)
        assert sorted(await told(world, 2)) == ["Normal AllRanksAttested", "Normal Training"]


async def test_an_operator_that_starts_again_or_two_at_once_repeat_nothing() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.finish(pod, 1)
        second = asyncio.create_task(operate(world.cluster, SETTINGS, partial(inform, world.cluster)))
        await world.succeed(await world.pods_of_attempt(2, 1))
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        third = asyncio.create_task(operate(world.cluster, SETTINGS, partial(inform, world.cluster)))
        assert await told(world, 2) == ["Warning Restarting", "Normal Complete"]
        for operator in (second, third):
            operator.cancel()
        await asyncio.gather(second, third, return_exceptions=True)


async def test_a_refusal_whose_words_change_each_time_is_one_event() -> None:
    async with operated() as world:
        create, refused = world.cluster.create, 0

        async def with_quota(resource: Resource, obj: Object) -> Object:
            nonlocal refused
            if resource == CONFIGMAPS:
                refused += 1
                raise ForbiddenError(403, "Forbidden", f"exceeded quota: parts, used: configmaps={refused}")
            return await create(resource, obj)

        world.cluster.create = with_quota  # type: ignore[method-assign]
        await world.cluster.create(FINETUNEJOBS, manifest())
        for minutes in range(1, 4):
            await world.until(lambda _, at_least=minutes: refused >= at_least)
            await world.edit(**{"spec.ttlSecondsAfterFinished": minutes})
        await world.until(lambda _: refused >= 4)
        assert await told(world, 1) == ["Warning Refused"]
