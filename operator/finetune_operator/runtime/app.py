"""The operator's life: queue, informer and leadership side by side, and a resync: an informer can miss a deletion."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat

from finetune_operator.core.settings import Settings
from finetune_operator.kube.errors import sentence_of
from finetune_operator.protocol import FINETUNEJOBS, ApiError, Cluster
from finetune_operator.runtime.fence import Fence
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.job_memory import Because, JobMemories, Key
from finetune_operator.runtime.leader import Candidate, Leader
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import Queue
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


@dataclass(frozen=True)
class Options:
    """How an operator works and with whom, besides its configuration. The defaults are those of `finetune run`."""

    namespaces: list[str] | None = None
    """Where FineTuneJobs are looked for; None: in all namespaces."""
    candidate: Candidate | None = None
    """Which Lease the operator must hold to work; None: it works from the start."""
    leases: Cluster | None = None
    """A connection of the Lease's own, which waits for no other request; None: the one for everything else."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set from outside, it ends the operator in order."""
    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=Health)
    memories: JobMemories = field(default_factory=JobMemories)
    resync: float = RESYNC
    """Seconds between two looks at all jobs."""
    pauses: Sequence[float] = PAUSES
    """Seconds between two tries to begin; the last one is repeated for ever."""
    make_reconciler: Callable[..., Reconciler] = Reconciler


async def operate(
    cluster: Cluster, settings: Settings, inform: Callable[[Intake], Awaitable[None]], options: Options | None = None
) -> None:
    """Reconcile FineTuneJobs until `options.stop` is set or the informer ends: then what is under way is finished, for
    a few seconds, and the lease is given back. An operator that is cancelled does neither, as if it were killed.

    With a candidate it works as long as it holds the lease, and is informed all the time. What stands in the way (no
    such kind, no right, no API server) is one sentence in the log and in the health, and is tried again."""
    sys.setrecursionlimit(max(DEEP, sys.getrecursionlimit()))
    options = options or Options()
    metrics, health, memories, candidate = options.metrics, options.health, options.memories, options.candidate
    listed, took_over = asyncio.Event(), asyncio.Event()

    def begin() -> None:
        metrics.leads = True
        took_over.set()
        queue.resume()

    def end() -> None:
        metrics.leads = False
        queue.pause()
        for key in memories.keys:
            memories.forget(key, Because.LEAD_LOST)

    leader = Leader(options.leases or cluster, candidate, health, begin, end) if candidate else None
    fenced = Fence(cluster, leader.may_act) if leader else cluster
    reconciler = options.make_reconciler(fenced, settings, memories, metrics=metrics)
    queue: Queue[Key] = Queue(reconciler.reconcile, waited=metrics.waited, told=ApiError, paused=leader is not None)
    metrics.leads = leader is None
    metrics.measure_depth(lambda: queue.depth)
    metrics.measure_phases(memories.in_phase)
    health.longest = lambda: queue.longest
    informer = partial(inform, Intake(queue, memories, policies=settings.network is not None))
    async with asyncio.TaskGroup() as group:
        # These come first: what kopf finds among its own tasks when it ends, it cancels.
        work = [group.create_task(queue.run()), group.create_task(_resync(cluster, queue, options, took_over))]
        leading = group.create_task(_lead(leader, listed)) if leader else None
        stopping = group.create_task(options.stop.wait())
        await asyncio.sleep(0)  # lets the queue start its workers
        informing = group.create_task(_inform(cluster, informer, options, listed))
        try:
            await asyncio.wait((informing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            health.not_ready = "the operator is ending" if options.stop.is_set() else "the informer has ended"
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
    cluster: Cluster, inform: Callable[[], Awaitable[None]], options: Options, listed: asyncio.Event
) -> None:
    """Until the informer ends without an error. It starts when FineTuneJobs can be listed: kopf waits in silence where
    the kind is not known yet, or may not be read."""
    loop = asyncio.get_running_loop()
    health, pauses = options.health, options.pauses
    waits = chain(pauses, repeat(pauses[-1]))
    while True:
        began = loop.time()
        try:
            await _keys(cluster, options.namespaces)
            health.not_ready = None
            listed.set()
            return await inform()
        except ApiError as error:
            if loop.time() - began > LASTED:
                waits, health.told = chain(pauses, repeat(pauses[-1])), None
            health.blocked(sentence_of(error))
        await asyncio.sleep(next(waits))


async def _resync(cluster: Cluster, queue: Queue[Key], options: Options, took_over: asyncio.Event) -> None:
    """Look at the jobs that are there, and at those that were: their deletion may have been missed. An operator that
    waits to lead forgets jobs that are gone; in case one came again in that moment, all are looked at when it leads."""
    memories, interval = options.memories, options.resync
    pause = interval
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * (0.9 + 0.2 * random.random())):
                await took_over.wait()
        took_over.clear()
        known = queue.known | memories.keys
        try:
            there = set(await _keys(cluster, options.namespaces))
        except ApiError as error:
            logger.warning("not all jobs could be looked at: %s", error)
            pause = min(interval, PAUSES[-1])
            continue
        pause = interval
        for key in sorted(there | memories.seen | known if options.metrics.leads else there, key=str):
            queue.add(key)
        if not options.metrics.leads:
            for key in known - there:
                queue.discard(key)
                memories.forget(key, Because.DELETED)


async def _keys(cluster: Cluster, namespaces: list[str] | None) -> list[Key]:
    everywhere: list[str | None] = [None]
    jobs = [job for namespace in namespaces or everywhere for job in await cluster.list(FINETUNEJOBS, namespace)]
    return [Key(job["metadata"]["namespace"], job["metadata"]["name"]) for job in jobs]
