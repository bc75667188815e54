"""The operator's life: queue and informer side by side, and a resync, because an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from finetune_operator.core.settings import Settings
from finetune_operator.protocol import FINETUNEJOBS, Cluster
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.intake import Intake, Key
from finetune_operator.runtime.queue import Queue
from finetune_operator.runtime.reconciler import Reconciler

RESYNC = 600.0
"""Seconds between two looks at all jobs, whatever the watches said."""


async def operate(
    cluster: Cluster,
    settings: Settings,
    inform: Callable[[Intake], Awaitable[None]],
    namespaces: list[str] | None = None,
    resync: float = RESYNC,
) -> None:
    """Reconcile the FineTuneJobs of some or all namespaces until cancelled, or until the informer ends: kopf's does so
    on SIGTERM."""
    evidence = Evidence()
    queue: Queue[Key] = Queue(Reconciler(cluster, settings, evidence).reconcile)
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        tasks = [group.create_task(queue.run()), group.create_task(_resync(cluster, queue, namespaces, resync))]
        await inform(Intake(queue, evidence))
        for task in tasks:
            task.cancel()


async def _resync(cluster: Cluster, queue: Queue[Key], namespaces: list[str] | None, interval: float) -> None:
    while True:
        await asyncio.sleep(interval * (0.9 + 0.2 * random.random()))
        everywhere: list[str | None] = [None]
        for namespace in namespaces or everywhere:
            for job in await cluster.list(FINETUNEJOBS, namespace):
                queue.add(Key(job["metadata"]["namespace"], job["metadata"]["name"]))
