"""One schedule: a cluster, its operator and everything that happens to them, determined by the seed, with a good end.

All random numbers come from the seed, and the time is the loop's, so a seed always leads to the same events.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from sim import ending
from sim.connection import Connection
from sim.history import History
from sim.informer import WATCHED, Informer
from sim.invariants import Invariants
from sim.loop import VirtualClock, VirtualTimeLoop, run
from sim.machines import Machines
from sim.people import People
from sim.weather import GOOD, Trace, Weather, drawn

from finetune_operator.core.settings import Network, Settings
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.local.store import Event
from finetune_operator.protocol import FINETUNEJOBS, JOBS, PODS, ApiError, ForbiddenError, Object, Resource
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.reconciler import Reconciler

SETTINGS = Settings(
    image="trainer:test", starting_interval=15, progress_interval=60, peers_interval=120, settle=5, grace=30
)
CHECK = 30.0
"""Seconds between two checks of what only the passing of time shows."""


class ViolationError(AssertionError):
    """The operator broke a promise."""


class _SameUids(random.Random):
    """Makes UIDs that all begin with the same digits, so that names of two jobs' children can collide."""

    def getrandbits(self, k: int, /) -> int:
        bits = super().getrandbits(k)
        return bits & ((1 << 108) - 1) if k == 128 else bits


class Schedule:
    """All parts of one schedule."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.seed = seed
        self.settings = replace(SETTINGS, network=Network() if chance.random() < 0.3 else None)
        self.loop = loop = VirtualTimeLoop()
        self.clock = VirtualClock(loop)
        self.no_pods_until = 0.0
        """The time until which others use up the quota for pods."""
        self.trace = Trace(loop.time)
        self.history = History()
        self.weather: Weather = drawn(chance)
        self.bad_weather = self.weather
        self.machines = Machines(random.Random(chance.random()), self.history, self.trace, chance.randint(2, 4))
        uids = _SameUids if chance.random() < 0.5 else random.Random
        lag = chance.choice((0.0, 0.0, 0.5, 3.0))
        lags = random.Random(chance.random())
        self.cluster = LocalCluster(
            self.machines,
            clock=self.clock,
            admit=self._admit,
            randomness=uids(chance.random()),
            lag=lambda: lag * lags.random(),
        )
        self.cluster.add_namespace("default")
        self.violation: asyncio.Future[str] = loop.create_future()
        self.invariants = Invariants(
            self.cluster.store,
            self.history,
            loop.time,
            self.violated,
            self.weather,
        )
        self.machines.placing = self.invariants.placing
        self.people = People(self, random.Random(chance.random()))
        self.cluster.store.listen(self._tell)
        self._chance = chance
        self._operators: dict[str, tuple[Connection, Informer, asyncio.Task[None]]] = {}
        self._started = 0
        nonces = random.Random(chance.random())
        self.reconciler = partial(
            Reconciler, now=self.clock.utc, nonce=lambda: uuid.UUID(int=nonces.getrandbits(128)).hex[:16]
        )
        """The factory of reconcilers for `operate`, with the clock and the nonces of this schedule."""

    def violated(self, text: str) -> None:
        """Record a violation; only the first one counts."""
        self.trace.say("VIOLATION: {}", text)
        if not self.violation.done():
            self.violation.set_result(text)

    def _admit(self, resource: Resource, manifest: Object) -> Object:
        if resource == PODS and self.loop.time() < self.no_pods_until:
            message = f'pods "{manifest["metadata"]["name"]}" is forbidden: exceeded quota: team'
            raise ForbiddenError(403, "Forbidden", message)
        return admit(resource, manifest)

    # ---- operators ---------------------------------------------------------------------------------------------------

    def start_operator(self) -> None:
        """Start a new operator, which has no memory."""
        self._started += 1
        name = f"operator {self._started}"
        self.trace.say("{} starts", name)
        chance = random.Random(self._chance.random())
        connection = Connection(
            name,
            self.cluster,
            chance,
            lambda: self.weather,
            self.trace,
            partial(self._died, name),
            self.invariants.deleting,
        )
        informer = Informer(self.cluster.store, chance, lambda: self.weather)
        task = self.loop.create_task(self._operate(name, connection, informer), name=name)
        self._operators[name] = (connection, informer, task)

    async def _operate(self, name: str, connection: Connection, informer: Informer) -> None:
        try:
            await operate(connection, self.settings, informer.inform, Options(make_reconciler=self.reconciler))
        except Exception as error:
            self.violated(f"{name} ended: {error!r}")

    def _died(self, name: str) -> None:
        """End the operator's tasks; if no other operator runs, start one soon."""
        self._end(name)
        if not self._operators:
            self.loop.call_later(self._chance.choice((0.1, 5, 60)), self._revive)

    def _end(self, name: str) -> None:
        connection, _, task = self._operators.pop(name)
        connection.dead = True
        task.cancel()

    def _revive(self) -> None:
        if not self._operators:
            self.start_operator()

    def restart(self) -> None:
        """Kill an operator, or let a second one run beside it for a while."""
        names = list(self._operators)
        if names and (len(names) > 1 or not self.weather.overlaps):
            self.trace.say("{} is killed", names[0])
            self._died(names[0])
        else:
            self.start_operator()

    def gap(self) -> None:
        """Make a gap in one watch of every operator."""
        resource = self._chance.choice(WATCHED)
        self.trace.say("a gap in the watch of {}", resource.plural)
        for _, informer, _ in self._operators.values():
            informer.gap(resource, self._chance.choice((5, 60)))

    # ---- the events --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run from the first job to the last check. Raises ViolationError."""
        state = random.getstate()
        random.seed(self.seed)  # for the queue and the resync
        try:
            run(self._play(), self.loop)
        finally:
            random.setstate(state)

    async def _play(self) -> None:
        story = asyncio.ensure_future(self._story())
        checks = asyncio.ensure_future(self._check_often())
        try:
            await asyncio.wait({story, checks, self.violation}, return_when=asyncio.FIRST_COMPLETED)
            if not self.violation.done():
                await story
        finally:
            story.cancel()
            checks.cancel()
        if self.violation.done():
            raise ViolationError(self.violation.result())

    async def _story(self) -> None:
        self.loop.set_exception_handler(self._stumbled)
        await self.cluster.start()
        await self.people.make_claims()
        with _logs_told(self):
            for _ in range(2 if self.weather.overlaps else 1):
                self.start_operator()
            for number in range(self._chance.choices((1, 2, 3), (60, 30, 10))[0]):
                await self.people.create(f"job-{number}")
            await self.people.live(self._chance.choices((0, 2, 4, 8), (10, 40, 35, 15))[0])
            await self._good_weather()
            await ending.converged(self)
            await ending.settled(self)

    def _stumbled(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if error := context.get("exception"):
            self.violated(f"something stumbled: {error!r} in {context.get('message')}")

    async def _good_weather(self) -> None:
        """End all faults, make room for all pods, keep one operator and correct the mistakes."""
        self.trace.say("the weather is good from here on")
        self.weather = GOOD
        self.no_pods_until = 0.0
        self.machines.troubled, self.machines.broken = False, None
        for node in list(self.machines.cut):
            self.machines.power_on(node)
        self.machines.nodes += [f"spare-{number}" for number in range(6)]
        self.machines.schedule_soon()
        for name in list(self._operators)[1:]:
            self._end(name)
        self._revive()
        await ending.correct_mistakes(self, self._chance)
        await self.people.make_claims()
        await self.people.give_names_back()
        await self.people.admit_all()

    async def _check_often(self) -> None:
        while True:
            await asyncio.sleep(CHECK)
            self.invariants.check_time()

    def _tell(self, resource: Resource, event: Event) -> None:
        meta, status = event.object["metadata"], event.object.get("status", {})
        if resource == FINETUNEJOBS and (run := status.get("run")):
            ready = next((c["message"] for c in status.get("conditions", []) if c["type"] == "Ready"), "")
            words = (event.type, meta["name"], run["number"], run["attempt"], status.get("phase"), ready)
            self.trace.say("  {} {}: run {} attempt {}: {}: {}", *words)
        elif resource == JOBS:
            conditions = [c["type"] for c in status.get("conditions", []) if c["status"] == "True"]
            self.trace.say("  {} Job {} {}", event.type, meta["name"], conditions)
        elif resource == PODS:
            going = "terminating" if "deletionTimestamp" in meta else ""
            words = (event.type, meta["name"], event.object["spec"].get("nodeName"), status.get("phase"), going)
            self.trace.say("  {} Pod {} on {}: {} {}", *words)


class _Told(logging.Handler):
    """Puts the operator's log into the trace; an error other than an ApiError is a violation."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(logging.WARNING)
        self._schedule = schedule

    def emit(self, record: logging.LogRecord) -> None:
        self._schedule.trace.say("  log: {}", record.getMessage())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, ApiError):
            self._schedule.violated(f"the operator stumbled: {error!r}")


@contextmanager
def _logs_told(schedule: Schedule) -> Iterator[None]:
    logger, handler = logging.getLogger("finetune_operator"), _Told(schedule)
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def simulate(seed: int) -> None:
    """Simulate the schedule of a seed. Raises ViolationError with the end of its trace."""
    schedule = Schedule(seed)
    try:
        schedule.run()
    except ViolationError as error:
        how = f"reproduce it, with the whole trace, by: make sim SEED={seed}"
        raise ViolationError(f"seed {seed}: {error}\n{schedule.trace.text(last=60)}\n{how}") from None
