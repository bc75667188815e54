"""The queue of keys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from finetune_operator.runtime import queue as module
from finetune_operator.runtime.queue import Queue, Work


@asynccontextmanager
async def running(work: Work[str], workers: int = 4) -> AsyncIterator[Queue[str]]:
    queue = Queue(work, workers, jitter=lambda: 0.5)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: "asyncio.Event") -> None:
    await asyncio.wait_for(true.wait(), 5)


async def test_a_key_that_waits_is_there_once() -> None:
    seen: Counter[str] = Counter()
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen[key] += 1
        if key == "last":
            done.set()

    async with running(work, workers=1) as queue:
        for key in ("a", "a", "a", "last"):
            queue.add(key)
        await until(done)
    assert seen == {"a": 1, "last": 1}


async def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more_and_never_twice_at_a_time() -> None:
    at_once = most = calls = 0
    started, go_on, again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        nonlocal at_once, most, calls
        at_once, calls = at_once + 1, calls + 1
        most = max(most, at_once)
        started.set()
        await go_on.wait()
        at_once -= 1
        if calls == 2:
            again.set()

    async with running(work) as queue:
        queue.add("a")
        await until(started)
        queue.add("a")
        queue.add("a")
        go_on.set()
        await until(again)
    assert (most, calls) == (1, 2)


async def test_different_keys_are_worked_on_at_once() -> None:
    together = asyncio.Barrier(3)
    met = asyncio.Event()

    async def work(key: str) -> None:
        await together.wait()
        met.set()

    async with running(work) as queue:
        for key in "abc":
            queue.add(key)
        await until(met)


async def test_a_key_that_fails_comes_again_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    times: list[float] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 4:
            done.set()
            return
        raise OSError("no route")

    async with running(work) as queue:
        queue.add("a")
        await until(done)
    waits = [b - a for a, b in pairwise(times)]
    assert waits[0] >= 0.01
    assert waits[1] >= 0.02
    assert waits[2] >= 0.04


async def test_work_says_when_it_wants_to_be_called_again_and_an_event_comes_sooner() -> None:
    calls = 0
    twice = asyncio.Event()

    async def work(key: str) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        return 0.01 if calls == 1 else 3600

    async with running(work) as queue:
        queue.add("a")
        await until(twice)
        twice.clear()
        calls = 1
        queue.add("a")
        await until(twice)


async def test_a_later_timer_does_not_push_back_an_earlier_one() -> None:
    done = asyncio.Event()

    async def work(key: str) -> None:
        done.set()

    async with running(work) as queue:
        queue.add_after("a", 0.01)
        queue.add_after("a", 3600)
        await until(done)
