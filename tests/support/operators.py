"""Several operators over one in-memory cluster, in virtual time: each has its own way to the API server, which can be
cut, and a clock that may go wrong; what they do is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sim.loop import VirtualClock, VirtualTimeLoop
from sim.loop import run as run_loop

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.settings import Settings
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import CLAIMS, FINETUNEJOBS, LEASES, PODS, ApiError, Object, Resource
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.leader import Candidate
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.watch import inform
from finetune_trainer.contract import Phase, PodStatus, Progress, RankStatus
from support.clusters import claim
from support.scripted import ScriptedDriver

T = TypeVar("T")
SETTINGS = Settings(image="trainer:test", starting_interval=0.5, progress_interval=0.5, peers_interval=5)
"""So that the operator that leads looks at a job twice a second, and writes its progress."""
WRITES = frozenset({"create", "delete", "put", "put_status"})


class Act(NamedTuple):
    """A look at a job to decide on it, or a write of anything but a lease."""

    at: float
    by: str


def in_virtual_time(scene: Callable[[Scene], Coroutine[Any, Any, T]]) -> T:
    """Hours in milliseconds."""
    loop = VirtualTimeLoop()

    async def main() -> T:
        async with scene_on(loop) as made:
            return await scene(made)

    return run_loop(main(), loop)


class Connection:
    """`protocol.Cluster`, as one operator reaches it."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self.fault: Callable[[Resource], Awaitable[None]] | None = None
        """Awaited before each request but a watch; may raise, or never return."""

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._scene.cluster, verb)
        return method if verb == "watch" else partial(self._call, verb, method)

    async def _call(self, verb: str, method: Any, resource: Any, *arguments: Any) -> Any:
        if self.fault:
            await self.fault(resource)
        answer = await method(resource, *arguments)
        if (verb in WRITES and resource != LEASES) or (verb == "get" and resource == FINETUNEJOBS):
            self._scene.acts.append(Act(asyncio.get_running_loop().time(), self._name))
        return answer


@dataclass
class Operator:
    """One that runs."""

    name: str
    connection: Connection
    task: asyncio.Task[None]
    options: Options
    parts: list[Any]
    """The intake, its queue, and the reconciler."""

    async def killed(self) -> None:
        """It ends at once, and tells nobody."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def ended(self) -> float:
        """It ends as on SIGTERM; returns after how many seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.options.stop.set()
        await asyncio.wait_for(self.task, 60)
        return loop.time() - began

    @property
    def health(self) -> Health:
        return self.options.health

    @property
    def metrics(self) -> Metrics:
        return self.options.metrics

    @property
    def leads(self) -> bool:
        return self.metrics.registry.get_sample_value("finetune_leader") == 1


@dataclass
class Scene:
    """A cluster with one job that trains, step after step, once somebody has started it."""

    loop: VirtualTimeLoop
    cluster: LocalCluster
    driver: ScriptedDriver
    clock: VirtualClock
    acts: list[Act] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)

    def start(
        self,
        name: str,
        clock: Callable[[], float] | None = None,
        lease: str = "finetune-operator",
        make_reconciler: Callable[..., Any] | None = None,
        resync: float = 600,
    ) -> Operator:
        """Another operator, with a clock that shows what `clock` says."""
        connection = Connection(self, name)
        parts: list[Any] = []

        async def informed(intake: Intake) -> None:
            parts.extend((intake, intake._queue))
            await inform(self.cluster, intake)

        def made(*arguments: Any, **named: Any) -> Any:
            parts.append((make_reconciler or partial(Reconciler, now=self.clock.utc))(*arguments, **named))
            return parts[-1]

        candidate = Candidate("ops", lease, name, clock or self.loop.time, self.clock.utc)
        options = Options(candidate=candidate, resync=resync, make_reconciler=made)
        work = operate(
            connection,  # type: ignore[arg-type]  # it has all verbs
            SETTINGS,
            informed,
            options,
        )
        operator = Operator(name, connection, self.loop.create_task(work), options, parts)
        self.operators.append(operator)
        return operator

    async def until(self, what: Callable[[], Any], seconds: float = 120) -> float:
        """Waits until something is true; returns when that was."""
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.01)
        return self.loop.time()

    async def lease(self, name: str = "finetune-operator") -> Object:
        """Of the operators."""
        return await self.cluster.get(LEASES, "ops", name)

    def times(self, operator: Operator) -> list[float]:
        """When it acted."""
        return [act.at for act in self.acts if act.by == operator.name]

    def status(self, name: str = "clauses") -> FineTuneJobStatus:
        """Of a job."""
        job = self.cluster.peek(FINETUNEJOBS, "default", name)
        assert job is not None
        return FineTuneJobStatus.model_validate(job.get("status", {}))

    def answer(self, pod: Object, path: str) -> bytes:
        """An agent's, of one rank, two steps a second."""
        run = self.status(pod["metadata"]["labels"]["finetune.dev/job"]).run
        assert run is not None
        step = int(self.loop.time() * 2) + 1
        rank = RankStatus(
            rank=0,
            world=1,
            config_digest=run.config_digest,
            backend="gloo",
            zero_stage=run.zero_stage,
            phase=Phase.TRAIN,
            step=step,
            heartbeat=self.clock.now(),
        )
        progress = Progress(step=step, total_steps=10**6, epoch=0.1, loss=1.0, eta_seconds=30)
        answer = PodStatus(
            pod_uid=pod["metadata"]["uid"],
            attempt=run.attempt,
            nonce=run.nonce,
            index=0,
            ranks=(rank,),
            progress=progress,
        )
        return answer.to_json().encode()

    async def pod(self) -> Object:
        """The newest pod."""
        pods = await self.cluster.list(PODS, "default")
        return max(pods, key=lambda pod: int(pod["metadata"]["resourceVersion"]))


@asynccontextmanager
async def scene_on(loop: VirtualTimeLoop) -> AsyncIterator[Scene]:
    """All ends with the block."""
    driver, clock = ScriptedDriver(automatic=True), VirtualClock(loop)
    cluster = LocalCluster(driver, clock=clock, admit=admit)
    scene = Scene(loop, cluster, driver, clock)
    driver.answer = scene.answer
    for namespace in ("default", "ops"):
        cluster.add_namespace(namespace)
    await cluster.start()
    await cluster.create(CLAIMS, claim("finetune", "ReadWriteMany"))
    try:
        yield scene
    finally:
        for operator in scene.operators:
            await operator.killed()
        await cluster.close()


async def away(resource: Resource) -> None:
    """The API server cannot be reached."""
    raise ApiError(0, "Unreachable", "the API server was not reached: no route to host")


async def no_leases(resource: Resource) -> None:
    """It stumbles, but only over leases."""
    if resource == LEASES:
        raise ApiError(500, "InternalError", "etcd is slow")


async def silent_about_leases(resource: Resource) -> None:
    """It never answers."""
    if resource == LEASES:
        await asyncio.Event().wait()
