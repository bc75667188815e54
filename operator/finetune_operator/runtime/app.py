"""The operator's life: queue, informer and leadership side by side, and a resync: an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat

from finetune_operator.core.settings import Settings
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import FINETUNEJOBS, ApiError, Cluster
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.fence import Fence
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake, Key
from finetune_operator.runtime.leader import Candidate, Leader
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import Queue
from finetune_operator.runtime.recollection import Recollection
from finetune_operator.runtime.reconciler import Reconciler

logger = logging.getLogger(__name__)

RESYNC = 600.0
"""Seconds between two looks at all jobs, whatever the watches said."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries to begin."""
DEEP = 30_000
"""Frames: an API server takes JSON of 10,000 levels in any field without a schema, and one such object must not end the
watches and lists of all the others. It is refused when it is looked at."""
LASTED = 60.0
"""Seconds after which what ends the informer is a new event, and not the old one again."""
DRAIN = 5.0
"""Seconds in which what is under way may be finished when the operator ends."""


async def operate(
    cluster: Cluster,
    settings: Settings,
    inform: Callable[[Intake], Awaitable[None]],
    namespaces: list[str] | None = None,
    resync: float = RESYNC,
    metrics: Metrics | None = None,
    health: Health | None = None,
    pauses: Sequence[float] = PAUSES,
    candidate: Candidate | None = None,
    leases: Cluster | None = None,
    stop: asyncio.Event | None = None,
    make_reconciler: Callable[..., Reconciler] = Reconciler,
) -> None:
    """Reconcile the FineTuneJobs of some or all namespaces until `stop` is set or the informer ends: then what is under
    way is finished, for a few seconds, and the lease given back. Who is cancelled does neither, as if it were killed.

    With a `candidate` it works as long as it holds the lease, and is informed all the time; `leases` is a connection of
    the lease's own, which waits for no other request. What stands in the way (no such kind, no right, no API server) is
    told to the log and `health` in a sentence, and tried again after `pauses` (seconds, the last one for ever)."""
    sys.setrecursionlimit(max(DEEP, sys.getrecursionlimit()))
    metrics, health, stop = metrics or Metrics(), health or Health(), stop or asyncio.Event()
    evidence, recollection, listed, took_over = Evidence(), Recollection(), asyncio.Event(), asyncio.Event()

    def begin() -> None:
        metrics.leads = True
        took_over.set()
        queue.resume()

    def end() -> None:
        metrics.leads = False
        queue.pause()
        for key in metrics.jobs:
            reconciler.forget(key)

    leader = Leader(leases or cluster, candidate, health, begin, end) if candidate else None
    fenced = Fence(cluster, leader.may_act) if leader else cluster
    reconciler = make_reconciler(fenced, settings, evidence, recollection=recollection, metrics=metrics)
    queue: Queue[Key] = Queue(reconciler.reconcile, waited=metrics.waited, told=ApiError, paused=leader is not None)
    intake = Intake(queue, evidence, recollection)
    metrics.leads = leader is None
    metrics.measure_depth(lambda: queue.depth)
    health.longest = lambda: queue.longest
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        work = [group.create_task(queue.run())]
        resyncing = _resync(cluster, queue, evidence, recollection, metrics, namespaces, resync, took_over)
        work += [group.create_task(resyncing)]
        leading = group.create_task(_lead(leader, listed)) if leader else None
        stopping = group.create_task(stop.wait())
        await asyncio.sleep(0)  # lets the queue start its workers
        informing = group.create_task(_inform(cluster, partial(inform, intake), namespaces, health, pauses, listed))
        try:
            await asyncio.wait((informing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            health.not_ready = "the operator is ending" if stop.is_set() else "the informer has ended"
        await queue.drain(DRAIN)
        if leader and leading:
            leading.cancel()
            await asyncio.wait((leading,))
            await leader.release()
        for task in (*work, stopping, informing):
            task.cancel()


async def _lead(leader: Leader, listed: asyncio.Event) -> None:
    """Who cannot read FineTuneJobs must not lead: another one may be able to."""
    await listed.wait()
    await leader.run()


async def _inform(
    cluster: Cluster,
    inform: Callable[[], Awaitable[None]],
    namespaces: list[str] | None,
    health: Health,
    pauses: Sequence[float],
    listed: asyncio.Event,
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
            listed.set()
            return await inform()
        except ApiError as error:
            if loop.time() - began > LASTED:
                waits, health.told = chain(pauses, repeat(pauses[-1])), None
            health.blocked(sentence_of(error))
        await asyncio.sleep(next(waits))


async def _resync(
    cluster: Cluster,
    queue: Queue[Key],
    evidence: Evidence,
    recollection: Recollection,
    metrics: Metrics,
    namespaces: list[str] | None,
    interval: float,
    took_over: asyncio.Event,
) -> None:
    """Of the jobs that are there, and of those that were: their deletion may have been missed. Who waits to lead lets
    go of what is no more; in case it came again in that moment, all are looked at when it takes over."""
    pause = interval
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * (0.9 + 0.2 * random.random())):
                await took_over.wait()
        took_over.clear()
        known = queue.known | evidence.jobs
        try:
            there = set(await _keys(cluster, namespaces))
        except ApiError as error:
            logger.warning("not all jobs could be looked at: %s", error)
            pause = min(interval, PAUSES[-1])
            continue
        pause = interval
        for key in sorted(there | metrics.jobs | known if metrics.leads else there, key=str):
            queue.add(key)
        if not metrics.leads:
            for key in known - there:
                queue.discard(key)
                evidence.forget(key)
                recollection.forget(key)


async def _keys(cluster: Cluster, namespaces: list[str] | None) -> list[Key]:
    everywhere: list[str | None] = [None]
    jobs = [job for namespace in namespaces or everywhere for job in await cluster.list(FINETUNEJOBS, namespace)]
    return [Key(job["metadata"]["namespace"], job["metadata"]["name"]) for job in jobs]
