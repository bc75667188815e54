"""Runs the operator: queue, informer, leader election and resync, side by side.

The resync is needed because an informer can miss a deletion.
"""

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
"""Seconds between two reconciles of all jobs, whatever the watches reported."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries to start the informer."""
DEEP = 30_000
"""The recursion limit, in frames.

An API server accepts JSON of 10,000 levels in any field without a schema, and one such object must not end the watches
and lists of all the others. It is refused when it is reconciled.
"""
LASTED = 60.0
"""Seconds after which an error that ends the informer counts as a new one, and not as the old one again."""
DRAIN = 5.0
"""Seconds in which the reconciles in progress may finish when the operator ends."""


@dataclass(frozen=True)
class Options:
    """The options of an operator besides its settings. The defaults are those of `finetune run`."""

    namespaces: list[str] | None = None
    """The namespaces in which FineTuneJobs are watched; None for all namespaces."""
    candidate: Candidate | None = None
    """The candidate for the Lease that the operator must hold to reconcile; None if it needs none."""
    leases: Cluster | None = None
    """A separate connection for the Lease, which waits for no other request; None to use the main connection."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """An event that ends the operator in order when it is set from outside."""
    metrics: Metrics = field(default_factory=Metrics)
    health: Health = field(default_factory=Health)
    memories: JobMemories = field(default_factory=JobMemories)
    resync: float = RESYNC
    """Seconds between two reconciles of all jobs."""
    pauses: Sequence[float] = PAUSES
    """Seconds between two tries to start the informer; the last value is repeated forever."""
    make_reconciler: Callable[..., Reconciler] = Reconciler


async def operate(
    cluster: Cluster, settings: Settings, inform: Callable[[Intake], Awaitable[None]], options: Options | None = None
) -> None:
    """Reconcile FineTuneJobs until `options.stop` is set or the informer ends.

    The reconciles in progress are then finished within a few seconds, and the lease is released. An operator that is
    cancelled does neither, as if it were killed.

    With a candidate, it reconciles as long as it holds the lease, and watches all the time. If the kind, a permission
    or the API server is missing, one sentence about it is logged and reported by the health endpoint, and the start is
    tried again.
    """
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
        # These tasks start before kopf, which at its end cancels every task that was not there at its beginning.
        work = [group.create_task(queue.run()), group.create_task(_resync(cluster, queue, options, took_over))]
        leading = group.create_task(_lead(leader, listed)) if leader else None
        stopping = group.create_task(options.stop.wait())
        await asyncio.sleep(0)  # allows the queue to start its workers
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
    """Take part in the leader election once FineTuneJobs could be listed.

    An operator that cannot read them must not lead, because another one may be able to.
    """
    await listed.wait()
    await leader.run()


async def _inform(
    cluster: Cluster, inform: Callable[[], Awaitable[None]], options: Options, listed: asyncio.Event
) -> None:
    """Run the informer until it ends without an error.

    It starts once FineTuneJobs can be listed, because kopf waits silently where the kind does not exist yet or may not
    be read.
    """
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
    """Queue all jobs at intervals, including known jobs whose deletion may have been missed.

    A standby only forgets deleted jobs. When it becomes the leader, all jobs are queued, in case one was created again
    at that moment.
    """
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
