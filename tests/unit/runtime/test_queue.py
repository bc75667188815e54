"""The queue of keys to reconcile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from sim.loop import VirtualTimeLoop, run

from finetune_operator.runtime import queue as module
from finetune_operator.runtime.queue import Queue, Work


@asynccontextmanager
async def running(work: Work[str], workers: int = 4, paused: bool = False) -> AsyncIterator[Queue[str]]:
    queue = Queue(work, workers, jitter=lambda: 0.5, paused=paused)
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


async def test_some_keys_go_before_the_others_in_their_order() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if key == "d":
            done.set()

    async with running(work, workers=1, paused=True) as queue:
        for key, first in (("a", False), ("b", False), ("c", True), ("b", True), ("d", False), ("e", True)):
            queue.add(key, first=first)
        queue.discard("e")
        queue.resume()
        await until(done)
    assert seen == ["c", "b", "a", "d"]


async def test_a_key_that_is_to_be_first_while_it_is_worked_on_is_first_afterwards() -> None:
    seen: list[str] = []
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        begun.set()
        await go_on.wait()
        if len(seen) == 3:
            done.set()

    async with running(work, workers=1) as queue:
        queue.add("a")
        await until(begun)
        queue.add("b")
        queue.add("a", first=True)
        queue.add("a")
        go_on.set()
        await until(done)
    assert seen == ["a", "a", "b"]


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


# ---- paused and drained ---------------------------------------------------------------------------------------------


async def test_while_it_is_paused_keys_wait_each_once_and_then_are_worked_on() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if len(seen) == 2:
            done.set()

    async with running(work, paused=True) as queue:
        for key in ("a", "b", "a", "b"):
            queue.add(key)
        queue.add_after("a", 0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (seen, queue.depth) == ([], 2)
        queue.resume()
        await until(done)
    assert seen == ["a", "b"]


async def test_a_pause_cancels_what_is_under_way_and_its_keys_come_again() -> None:
    started, finished = asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    async def work(key: str) -> None:
        calls.append("begun")
        started.set()
        try:
            if len(calls) == 1:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            calls.append("cancelled")
            raise
        finished.set()

    async with running(work, workers=1) as queue:
        queue.add("a")
        await until(started)
        queue.pause()
        queue.pause()
        for _ in range(20):
            await asyncio.sleep(0)
        assert calls == ["begun", "cancelled"]
        assert (queue.depth, queue.longest) == (1, None)
        queue.resume()
        await until(finished)
    assert calls == ["begun", "cancelled", "begun"]


async def test_what_waited_while_it_was_paused_waits_for_us_from_then_on() -> None:
    waits: list[float] = []
    queue: Queue[str] = Queue(_nothing, waited=waits.append, paused=True)
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(queue.run())
    queue.add("a")
    added = loop.time()
    while loop.time() < added + 0.05:
        await asyncio.sleep(0.005)
    queue.resume()
    async with asyncio.timeout(5):
        while not waits:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert waits[0] < 0.05


async def test_a_drain_lets_what_is_under_way_finish_and_begins_nothing() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def work(key: str) -> None:
        started.set()
        await go_on.wait()
        ended.append(key)

    async with running(work, workers=1) as queue:
        queue.add("a")
        await until(started)
        queue.add("b")
        draining = asyncio.create_task(queue.drain(60))
        await asyncio.sleep(0)
        assert not draining.done()
        go_on.set()
        await asyncio.wait_for(draining, 5)
        assert (ended, queue.depth) == (["a"], 1)


async def test_a_drain_does_not_wait_for_ever() -> None:
    started = asyncio.Event()

    async def work(key: str) -> None:
        started.set()
        await asyncio.Event().wait()

    async with running(work) as queue:
        queue.add("a")
        await until(started)
        await asyncio.wait_for(queue.drain(0.01), 5)
        assert queue.longest is None


async def test_a_drain_of_an_idle_queue_is_over_at_once() -> None:
    async with running(_nothing) as queue:
        await asyncio.wait_for(queue.drain(60), 1)


async def test_a_discarded_key_is_not_worked_on() -> None:
    async with running(_nothing, paused=True) as queue:
        queue.add("a")
        queue.add_after("b", 3600)
        assert queue.known == {"a", "b"}
        for key in "abc":
            queue.discard(key)
        assert queue.known == frozenset()


async def _nothing(key: str) -> None:
    return None


# ---- many errors at once --------------------------------------------------------------------------------------------


def test_a_storm_of_errors_for_all_keys_does_not_hammer() -> None:
    """The API server answers 500 immediately for minutes: each key is retried less and less often."""
    keys, times = [str(number) for number in range(500)], []

    async def storm() -> None:
        async def work(key: str) -> None:
            times.append(asyncio.get_running_loop().time())
            raise OSError("500")

        async with running(work, workers=16) as queue:
            for key in keys:
                queue.add(key)
            await asyncio.sleep(600)

    loop = VirtualTimeLoop()
    run(storm(), loop)
    first, tenth = (sum(start <= time < start + 60 for time in times) for start in (0, 540))
    assert first <= 8 * len(keys), "half a second, one, two, four, ... up to a minute"
    assert 0 < tenth <= 2 * len(keys), "once a minute, with jitter"
