"""A reconciler that a test calls by hand, over the in-memory cluster, with a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from finetune_operator.core.settings import Settings
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import CLAIMS, FINETUNEJOBS, PODS, ForbiddenError, Object, Resource
from finetune_operator.runtime.job_memory import Because, JobMemories, Key
from finetune_operator.runtime.reconciler import Reconciler
from support.clusters import NOW, World, claim
from support.manifests import manifest
from support.scripted import ScriptedDriver

KEY = Key("default", "clauses")
SETTINGS = Settings(image="trainer:test", progress_interval=10, peers_interval=60)


class CountingCluster(LocalCluster):
    """A cluster that counts requests to pods and creations, and refuses some creations."""

    def __init__(self, driver: ScriptedDriver) -> None:
        super().__init__(driver, admit=admit)
        self.asked: Counter[str] = Counter()
        self.created: Counter[str] = Counter()
        self.refused = ""

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        self.asked[pod["metadata"]["name"].split("-")[-2]] += 1
        return await super().pod_status(pod, port, path, limit, timeout)

    async def create(self, resource: Resource, manifest: Object) -> Object:
        self.created[resource.kind] += 1
        if resource.kind == self.refused:
            raise ForbiddenError(403, "Forbidden", "exceeded quota")
        return await super().create(resource, manifest)


class Bench:
    """A reconciler that the test calls, with a clock that the test sets."""

    def __init__(self, world: World, cluster: CountingCluster) -> None:
        self.world = world
        self.cluster = cluster
        self.now = NOW
        self.reconciler = Reconciler(cluster, SETTINGS, JobMemories(), now=lambda: self.now)

    async def reconcile_until(self, what: Any) -> None:
        async with asyncio.timeout(10):
            while not what(await self.world.status()):
                self.reconciler.memories.forget(KEY, Because.CHANGED)  # events would do this, but none arrive here
                await self.reconciler.reconcile(KEY)
                await asyncio.sleep(0.001)

    async def pods_of_new_job(self, nodes: int = 1, **changes: Any) -> list[Object]:
        """Create a job of so many nodes, and return its pods when its attempt has begun."""
        resources = {"spec.resources": {"nodes": nodes, "gpusPerNode": 0}}
        await self.cluster.create(FINETUNEJOBS, manifest(**resources, **changes))
        await self.reconcile_until(lambda s: s.run and s.run.job_uid)
        return await self.world.pods(nodes)

    async def succeed_unseen(self, pods: list[Object]) -> None:
        """Let all pods end well, and delete rank 0's before anybody has read its message."""
        await self.world.succeed(pods)
        await self.cluster.delete(PODS, "default", pods[0]["metadata"]["name"])

    async def version(self) -> str:
        version: str = (await self.world.job())["metadata"]["resourceVersion"]
        return version


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    answers: dict[str, bytes] = {}
    driver = ScriptedDriver(automatic=True, answer=lambda pod, path: answers.get(pod["metadata"]["uid"]))
    cluster = CountingCluster(driver)
    cluster.add_namespace("default")
    await cluster.start()
    await cluster.create(CLAIMS, claim("finetune", "ReadWriteMany"))
    try:
        yield Bench(World(cluster, driver, answers), cluster)
    finally:
        await cluster.close()
