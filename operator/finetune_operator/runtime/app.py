"""The operator's life: queue and informer side by side, and a resync, because an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain, repeat

from finetune_operator.core.settings import Settings
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import FINETUNEJOBS, ApiError, Cluster
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake, Key
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import Queue
from finetune_operator.runtime.reconciler import Reconciler

logger = logging.getLogger(__name__)

RESYNC = 600.0
"""Seconds between two looks at all jobs, whatever the watches said."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries to begin."""
LASTED = 60.0
"""Seconds after which what ends the informer is a new event, and not the old one again."""


async def operate(
    cluster: Cluster,
    settings: Settings,
    inform: Callable[[Intake], Awaitable[None]],
    namespaces: list[str] | None = None,
    resync: float = RESYNC,
    metrics: Metrics | None = None,
    health: Health | None = None,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Reconcile the FineTuneJobs of some or all namespaces until cancelled, or until the informer ends: kopf's does so
    on SIGTERM. What stands in the way (no such kind, no right, no API server) is told to the log and `health` in a
    sentence, and tried again after `pauses` (seconds, the last one for ever)."""
    metrics, health = metrics or Metrics(), health or Health()
    evidence = Evidence()
    reconciler = Reconciler(cluster, settings, evidence, metrics=metrics)
    queue: Queue[Key] = Queue(reconciler.reconcile, waited=metrics.waited, told=ApiError)
    metrics.measure_depth(lambda: queue.depth)
    health.longest = lambda: queue.longest
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        resyncing = _resync(cluster, queue, metrics, namespaces, resync)
        tasks = [group.create_task(queue.run()), group.create_task(resyncing)]
        await asyncio.sleep(0)  # lets the queue start its workers
        try:
            await _inform(cluster, partial(inform, Intake(queue, evidence)), namespaces, health, pauses)
        finally:
            health.not_ready = "the informer has ended"
        for task in tasks:
            task.cancel()


async def _inform(
    cluster: Cluster,
    inform: Callable[[], Awaitable[None]],
    namespaces: list[str] | None,
    health: Health,
    pauses: Sequence[float],
) -> None:
    """Until the informer ends without an error. It starts when FineTuneJobs can be listed: kopf waits in silence where
    the kind is not known yet, or may not be read."""
    loop = asyncio.get_running_loop()
    waits = chain(pauses, repeat(pauses[-1]))
    while True:
        began = loop.time()
        try:
            await _keys(cluster, namespaces)
            health.not_ready = None
            return await inform()
        except ApiError as error:
            if loop.time() - began > LASTED:
                waits, health.told = chain(pauses, repeat(pauses[-1])), None
            health.blocked(sentence_of(error))
        await asyncio.sleep(next(waits))


async def _resync(
    cluster: Cluster, queue: Queue[Key], metrics: Metrics, namespaces: list[str] | None, interval: float
) -> None:
    """Of the jobs that are there, and of those that were: their deletion may have been missed."""
    while True:
        await asyncio.sleep(interval * (0.9 + 0.2 * random.random()))
        try:
            for key in {*await _keys(cluster, namespaces), *metrics.jobs}:
                queue.add(key)
        except ApiError as error:
            logger.warning("not all jobs could be looked at: %s", error)


async def _keys(cluster: Cluster, namespaces: list[str] | None) -> list[Key]:
    everywhere: list[str | None] = [None]
    jobs = [job for namespace in namespaces or everywhere for job in await cluster.list(FINETUNEJOBS, namespace)]
    return [Key(job["metadata"]["namespace"], job["metadata"]["name"]) for job in jobs]
