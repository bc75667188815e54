"""The operator's life: queue and informer side by side, and a resync, because an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from finetune_operator.core.settings import Settings
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


async def operate(
    cluster: Cluster,
    settings: Settings,
    inform: Callable[[Intake], Awaitable[None]],
    namespaces: list[str] | None = None,
    resync: float = RESYNC,
    metrics: Metrics | None = None,
    health: Health | None = None,
) -> None:
    """Reconcile the FineTuneJobs of some or all namespaces until cancelled, or until the informer ends: kopf's does so
    on SIGTERM. Raises ApiError, before anything else, when FineTuneJobs cannot be listed: kopf would wait in silence
    where the kind is not known yet. What is done is told to `metrics` and `health`, if anybody reads them."""
    metrics, health = metrics or Metrics(), health or Health()
    try:
        await _keys(cluster, namespaces)
    except ApiError as error:
        health.not_ready = f"FineTuneJobs cannot be listed: {error}"
        raise
    health.not_ready = "the informer has not started yet"
    evidence = Evidence()
    reconciler = Reconciler(cluster, settings, evidence, metrics=metrics)
    queue: Queue[Key] = Queue(reconciler.reconcile, waited=metrics.waited)
    metrics.measure_depth(lambda: queue.depth)
    health.longest = lambda: queue.longest
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        resyncing = _resync(cluster, queue, metrics, namespaces, resync)
        tasks = [group.create_task(queue.run()), group.create_task(resyncing)]
        await asyncio.sleep(0)  # lets the queue start its workers
        health.not_ready = None
        try:
            await inform(Intake(queue, evidence))
        finally:
            health.not_ready = "the informer has ended"
        for task in tasks:
            task.cancel()


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
