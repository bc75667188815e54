"""The operator's life: queue and informer side by side, and a resync, because an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from finetune_operator.core.settings import Settings
from finetune_operator.protocol import FINETUNEJOBS, ApiError, Cluster
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.intake import Intake, Key
from finetune_operator.runtime.queue import Queue
from finetune_operator.runtime.reconciler import Reconciler

logger = logging.getLogger(__name__)

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
    on SIGTERM. Raises ApiError, before anything else, when FineTuneJobs cannot be listed: kopf would wait in silence
    where the kind is not known yet."""
    await _keys(cluster, namespaces)
    evidence = Evidence()
    queue: Queue[Key] = Queue(Reconciler(cluster, settings, evidence).reconcile)
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        tasks = [group.create_task(queue.run()), group.create_task(_resync(cluster, queue, namespaces, resync))]
        await asyncio.sleep(0)  # lets the queue start its workers
        await inform(Intake(queue, evidence))
        for task in tasks:
            task.cancel()


async def _resync(cluster: Cluster, queue: Queue[Key], namespaces: list[str] | None, interval: float) -> None:
    while True:
        await asyncio.sleep(interval * (0.9 + 0.2 * random.random()))
        try:
            for key in await _keys(cluster, namespaces):
                queue.add(key)
        except ApiError as error:
            logger.warning("not all jobs could be looked at: %s", error)


async def _keys(cluster: Cluster, namespaces: list[str] | None) -> list[Key]:
    everywhere: list[str | None] = [None]
    jobs = [job for namespace in namespaces or everywhere for job in await cluster.list(FINETUNEJOBS, namespace)]
    return [Key(job["metadata"]["namespace"], job["metadata"]["name"]) for job in jobs]
