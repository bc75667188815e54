"""An event loop with virtual time: when no task is ready, its clock jumps to the next timer.

Hours take milliseconds, and nothing sleeps. The result depends only on the program: there are no threads, no sockets
and no real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
"""The time at which every schedule begins, in seconds since the epoch.

The loop's own time begins at 0, because its timers need the precision.
"""


class DeadlockError(Exception):
    """Raised when all tasks wait and no timer is set."""


class _Jump(selectors.SelectSelector):
    """A selector that advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError("everybody waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A single-threaded event loop that never waits."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class VirtualClock:
    """The loop's time as a clock for the in-memory cluster and the operator."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START + self._loop.time()

    def utc(self) -> datetime:
        """Return the current time as a datetime, for the operator."""
        return datetime.fromtimestamp(self.now(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(main: Coroutine[Any, Any, T], loop: VirtualTimeLoop) -> T:
    """Run the coroutine to its end, then cancel all remaining tasks and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=60))
        loop.close()
