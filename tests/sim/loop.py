"""An event loop whose clock jumps: where nothing is ready, it is at once the time of the next timer.

Hours pass in milliseconds, nothing sleeps, and what happens depends on nothing but the program: no thread, no socket,
no real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
"""Of every schedule, in seconds since the epoch. The loop itself counts from 0: its timers need the small digits."""


class DeadlockError(Exception):
    """Everybody waits, and no timer is set."""


class _Jump(selectors.SelectSelector):
    """Waits for nothing: it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError("everybody waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Single-threaded, and as fast as the program."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class VirtualClock:
    """The loop's time, for the in-memory cluster and the operator."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START + self._loop.time()

    def utc(self) -> datetime:
        """The same, for the operator."""
        return datetime.fromtimestamp(self.now(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(main: Coroutine[Any, Any, T], loop: VirtualTimeLoop) -> T:
    """To its end; then every task that is left is cancelled, and the loop is closed."""
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=60))
        loop.close()
