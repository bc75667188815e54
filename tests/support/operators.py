"""Several operators on one in-memory cluster, in virtual time.

Each operator has its own connection to the API server, which a test can cut, and its own clock, which can be wrong. The
scene records what the operators do.
"""

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
"""Settings with which the leader reconciles a job and writes its progress twice a second."""
WRITES = frozenset({"create", "delete", "put", "put_status"})


class Act(NamedTuple):
    """A read of a FineTuneJob, or a write of any object except a lease."""

    at: float
    by: str


def in_virtual_time(scene: Callable[[Scene], Coroutine[Any, Any, T]]) -> T:
    """Run the scene in virtual time, in which hours take milliseconds."""
    loop = VirtualTimeLoop()

    async def main() -> T:
        async with scene_on(loop) as made:
            return await scene(made)

    return run_loop(main(), loop)


class Connection:
    """One operator's connection to the cluster, with the interface of `protocol.Cluster`."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self.fault: Callable[[Resource], Awaitable[None]] | None = None
        """Awaited before each request except a watch; it may raise an error or never return."""

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
    """A running operator."""

    name: str
    connection: Connection
    task: asyncio.Task[None]
    options: Options
    parts: list[Any]
    """The intake, its queue, and the reconciler."""

    async def killed(self) -> None:
        """Stop the operator at once, without a shutdown."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def ended(self) -> float:
        """Stop the operator as SIGTERM does; return how many seconds this takes."""
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
    """A cluster for one job, whose pod trains step after step once a test has started an operator."""

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
        """Start another operator, whose lease clock is `clock`."""
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
            connection,  # type: ignore[arg-type]  # __getattr__ provides all its methods
            SETTINGS,
            informed,
            options,
        )
        operator = Operator(name, connection, self.loop.create_task(work), options, parts)
        self.operators.append(operator)
        return operator

    async def until(self, what: Callable[[], Any], seconds: float = 120) -> float:
        """Wait until `what` is true; return the time at which it was."""
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.01)
        return self.loop.time()

    async def lease(self, name: str = "finetune-operator") -> Object:
        """Return the operators' lease."""
        return await self.cluster.get(LEASES, "ops", name)

    def times(self, operator: Operator) -> list[float]:
        """Return the times at which the operator acted."""
        return [act.at for act in self.acts if act.by == operator.name]

    def status(self, name: str = "clauses") -> FineTuneJobStatus:
        """Return the status of a job."""
        job = self.cluster.peek(FINETUNEJOBS, "default", name)
        assert job is not None
        return FineTuneJobStatus.model_validate(job.get("status", {}))

    def answer(self, pod: Object, path: str) -> bytes:
        """Return the answer of an agent with one rank, which trains two steps a second."""
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
        """Return the newest pod."""
        pods = await self.cluster.list(PODS, "default")
        return max(pods, key=lambda pod: int(pod["metadata"]["resourceVersion"]))


@asynccontextmanager
async def scene_on(loop: VirtualTimeLoop) -> AsyncIterator[Scene]:
    """Provide a scene on the loop; its operators and its cluster stop when the block ends."""
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
    """Fail as if the API server were unreachable."""
    raise ApiError(0, "Unreachable", "the API server was not reached: no route to host")


async def no_leases(resource: Resource) -> None:
    """Fail each request for a lease with status 500."""
    if resource == LEASES:
        raise ApiError(500, "InternalError", "etcd is slow")


async def silent_about_leases(resource: Resource) -> None:
    """Never answer a request for a lease."""
    if resource == LEASES:
        await asyncio.Event().wait()
