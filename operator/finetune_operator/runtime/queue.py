"""A queue of keys: a key waits in it only once, and is never worked on twice at a time.

A key that is added while it is worked on is worked on once more afterwards, so no change is missed. Some keys take
precedence over the others. A key whose work fails is tried again after a delay that doubles, with jitter. While the
queue is paused, keys wait in it. The queue does not depend on Kubernetes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Work = Callable[[Key], Awaitable[float | None]]
"""A function that works on a key; it returns after how many seconds it wants to be called again, or None."""

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.5
LAST_DELAY = 60.0


class Queue(Generic[Key]):
    """A queue that runs `work` for the added keys, at most `workers` at once, on the running event loop."""

    def __init__(
        self,
        work: Work[Key],
        workers: int = 16,
        jitter: Callable[[], float] = random.random,
        waited: Callable[[float], None] = lambda seconds: None,
        told: type[Exception] | tuple[type[Exception], ...] = (),
        paused: bool = False,
    ) -> None:
        """Create a queue whose workers start with `run`.

        `waited` is called for each key whose turn comes, with the seconds that it waited. Errors of the types `told`
        are logged as a sentence; the others are logged once with their traceback.
        """
        self._work = work
        self._workers = workers
        self._jitter = jitter
        self._waited = waited
        self._told = told
        self._waiting: dict[Key, float] = {}
        self._first: dict[Key, None] = {}
        """The waiting keys that take precedence, in their order."""
        self._running: dict[Key, float] = {}
        self._again: dict[Key, bool] = {}
        """The keys that were added while they are worked on, and whether they take precedence."""
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._paused = paused
        self._limits: dict[Key, asyncio.Timeout] = {}
        """The timeouts that cancel the work on a key, but not the worker.

        The worker is an old task, which kopf does not cancel.
        """
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: Key, first: bool = False) -> None:
        """Work on a key as soon as possible; if `first`, before all keys that were added otherwise."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._running:
            self._again[key] = first or self._again.get(key, False)
            return
        self._waiting.setdefault(key, asyncio.get_running_loop().time())
        if first:
            self._first.setdefault(key)
        self._filled.set()

    def add_after(self, key: Key, delay: float) -> None:
        """Work on a key in `delay` seconds, or sooner if something adds it before."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is None or timer.when() > loop.time() + delay:
            if timer:
                timer.cancel()
            self._timers[key] = loop.call_later(delay, self.add, key)

    def discard(self, key: Key) -> None:
        """Forget a key that waits."""
        self._waiting.pop(key, None)
        self._first.pop(key, None)
        self._failures.pop(key, None)
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def pause(self) -> None:
        """Begin no work; the work in progress is cancelled, and its keys wait again."""
        self._paused = True
        for limit in self._limits.values():
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def resume(self) -> None:
        """Begin work again, also on keys that were added in the meantime; their waiting time starts now."""
        self._paused = False
        self._waiting = dict.fromkeys(self._waiting, asyncio.get_running_loop().time())
        self._filled.set()

    async def drain(self, seconds: float) -> None:
        """Begin no work, and return when the work in progress has ended; after `seconds` it is cancelled."""
        self._paused = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        self.pause()
        await self._idle.wait()

    @property
    def known(self) -> frozenset[Key]:
        """The keys that wait for their turn or for their time."""
        return frozenset(self._waiting) | frozenset(self._timers)

    @property
    def depth(self) -> int:
        """The number of keys that wait for their turn."""
        return len(self._waiting)

    @property
    def longest(self) -> tuple[Key, float] | None:
        """The key that has been worked on for the longest time, and the seconds since then."""
        if not self._running:
            return None
        key, started = next(iter(self._running.items()))
        return key, asyncio.get_running_loop().time() - started

    async def run(self) -> None:
        """Work until cancelled; the work in progress is then cancelled too."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _worker(self) -> None:
        while True:
            while self._paused or not self._waiting:
                self._filled.clear()
                await self._filled.wait()
            key = next(iter(self._first or self._waiting))
            self._first.pop(key, None)
            self._running[key] = now = asyncio.get_running_loop().time()
            self._idle.clear()
            self._waited(now - self._waiting.pop(key))
            try:
                await self._once(key)
            finally:
                del self._running[key]
                if not self._running:
                    self._idle.set()
                if key in self._again:
                    self.add(key, self._again.pop(key))

    async def _once(self, key: Key) -> None:
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits[key] = limit
                try:
                    again = await self._work(key)
                finally:
                    del self._limits[key]
        except Exception as error:
            if limit.expired():
                self._again.setdefault(key, False)
                return
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(LAST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 30)) * (0.5 + self._jitter())
            logger.warning(
                "%s: %s; again in %.1f s",
                key,
                error,
                delay,
                exc_info=failures == 1 and not isinstance(error, self._told),
            )
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)
