"""An operator's memory does not grow with past jobs: whatever it keeps of a job is removed with the job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sized
from typing import Any

from support.manifests import manifest
from support.operators import Operator, Scene, in_virtual_time

from finetune_operator.protocol import FINETUNEJOBS, JOBS, LEASES, PODS

RESYNC = 60.0
JOBS_AT_ONCE = 20
ROUNDS = 5


def kept(operator: Operator) -> dict[str, int]:
    """Return the sizes of all containers that live as long as the operator, by place. Empty ones are left out."""
    sizes: dict[str, int] = {}
    for part in operator.parts:
        for name, value in containers(part, type(part).__name__):
            sizes[name] = len(value)
    return {name: size for name, size in sizes.items() if size}


def containers(part: Any, path: str, depth: int = 3) -> Iterator[tuple[str, Sized]]:
    for name, value in vars(part).items():
        here = f"{path}.{name}"
        if isinstance(value, dict | list | set):
            yield here, value
        elif depth and type(value).__module__.startswith("finetune_operator.runtime"):
            yield from containers(value, here, depth - 1)


async def many_jobs_come_and_go(scene: Scene) -> None:
    for _ in range(ROUNDS):
        names = [f"job-{number}" for number in range(JOBS_AT_ONCE)]
        for name in names:
            await scene.cluster.create(FINETUNEJOBS, manifest(name))
        await asyncio.sleep(3)
        for pod in (await scene.cluster.list(PODS, "default"))[::2]:
            scene.driver.finish(pod, 1, "")
        await asyncio.sleep(10)
        for name in names:
            await scene.cluster.delete(FINETUNEJOBS, "default", name)
        await asyncio.sleep(3)
    for resource in (FINETUNEJOBS, JOBS, PODS):
        assert await scene.cluster.list(resource, "default") == []


def test_a_leader_keeps_nothing_of_jobs_that_are_gone() -> None:
    async def scene(scene: Scene) -> None:
        operator = scene.start("one", resync=RESYNC)
        await scene.cluster.create(FINETUNEJOBS, manifest("job-0"))
        await scene.until(lambda: scene.status("job-0").phase == "Training")
        places = " ".join(kept(operator))
        assert all(name in places for name in ("_jobs", "_job_of", "_seen")), f"the walk sees {places}"
        await scene.cluster.delete(FINETUNEJOBS, "default", "job-0")
        await asyncio.sleep(3)
        await many_jobs_come_and_go(scene)
        await asyncio.sleep(2 * RESYNC)
        assert kept(operator) == {}

    in_virtual_time(scene)


def test_a_standby_keeps_each_key_once_and_nothing_of_jobs_that_are_gone() -> None:
    async def scene(scene: Scene) -> None:
        leader = scene.start("one", resync=RESYNC)
        await scene.until(lambda: leader.leads)
        standby = scene.start("other", resync=RESYNC)
        await many_jobs_come_and_go(scene)
        depth = standby.metrics.registry.get_sample_value("finetune_workqueue_depth")
        assert depth is not None
        assert 0 < depth <= JOBS_AT_ONCE
        await asyncio.sleep(2 * RESYNC)
        assert kept(standby) == {}

    in_virtual_time(scene)


def test_who_leads_no_more_counts_no_jobs_and_keeps_no_notes_of_them() -> None:
    async def scene(scene: Scene) -> None:
        leader = scene.start("one")
        await scene.cluster.create(FINETUNEJOBS, manifest())
        await scene.until(lambda: scene.status().phase == "Training")
        lease = await scene.lease()
        lease["spec"] |= {"holderIdentity": "other", "renewTime": "2026-01-01T00:00:00.000000Z"}
        await scene.cluster.put(LEASES, lease)
        await scene.until(lambda: not leader.leads, 6)
        await asyncio.sleep(1)
        assert leader.options.memories.seen == frozenset()
        (memory,) = (leader.options.memories.find(key) for key in leader.options.memories.keys)
        assert (memory.asked, memory.written, memory.phase) == (None, None, None)
        assert memory.pods, "how they end is told to everyone"

    in_virtual_time(scene)
