"""The in-memory cluster with a running operator, for tests that observe only the objects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobStatus, RunStatus
from finetune_operator.core.settings import Settings
from finetune_operator.local.cluster import Admit, LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import CLAIMS, FINETUNEJOBS, JOBS, PODS, ConflictError, Object, Resource
from finetune_operator.runtime.app import Options
from finetune_operator.runtime.run_locally import run_locally
from finetune_trainer.contract import Phase as RankPhase
from finetune_trainer.contract import (
    PodStatus,
    Progress,
    RankStatus,
    Result,
    TerminationMessage,
)
from support.manifests import changed
from support.scripted import ScriptedDriver

SETTINGS = Settings(
    image="trainer:test",
    starting_interval=0.01,
    waiting_interval=0.05,
    progress_interval=0.01,
    peers_interval=0.01,
    settle=0.2,
)
RESULT = Result(
    path="default/clauses/runs/1-x/output",
    digest="d" * 64,
    base_metrics={"accuracy": 0.2},
    metrics={"accuracy": 0.9},
    step=30,
    trainable_parameters=10,
    parameters=100,
)


@dataclass
class World:
    """A cluster, the driver that a test uses to move its pods, and the answers of their agents."""

    cluster: LocalCluster
    driver: ScriptedDriver
    answers: dict[str, bytes]

    async def job(self, name: str = "clauses") -> Object:
        return await self.cluster.get(FINETUNEJOBS, "default", name)

    async def status(self, name: str = "clauses") -> FineTuneJobStatus:
        return FineTuneJobStatus.model_validate((await self.job(name)).get("status", {}))

    async def until(self, what: Callable[[FineTuneJobStatus], Any], name: str = "clauses") -> FineTuneJobStatus:
        """Return the first status for which `what` is true.

        Raises AssertionError with the last status after ten seconds.
        """
        status = FineTuneJobStatus()
        try:
            async with asyncio.timeout(10):
                while not what(status := await self.status(name)):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(
                f"never came true; the last status is {status.model_dump_json(exclude_none=True)}"
            ) from None
        return status

    async def pods(self, count: int) -> list[Object]:
        """Return the pods when there are at least `count`."""
        async with asyncio.timeout(10):
            while len(pods := await self.cluster.list(PODS, "default")) < count:
                await asyncio.sleep(0.005)
        return sorted(pods, key=index_of)

    async def pods_of_attempt(self, attempt: int, count: int) -> list[Object]:
        """Return the pods of an attempt of the newest run when there are at least `count`."""
        run = run_of(await self.until(lambda s: s.run and s.run.attempt == attempt and s.run.job_uid))
        labels = {constants.LABEL_RUN: str(run.number), constants.LABEL_ATTEMPT: str(attempt)}
        async with asyncio.timeout(10):
            while len(pods := await self.cluster.list(PODS, "default", labels)) < count:
                await asyncio.sleep(0.005)
        return sorted(pods, key=index_of)

    async def succeed(self, pods: list[Object]) -> None:
        """Let all pods of the newest attempt end with exit code 0."""
        run = run_of(await self.status())
        for pod in pods:
            self.driver.finish(pod, 0, last_words(pod, run))

    async def edit(self, **changes: Any) -> Object:
        """Edit the FineTuneJob and retry on a conflict with the operator's writes."""
        while True:
            with suppress(ConflictError):
                return await self.cluster.put(FINETUNEJOBS, changed(await self.job(), changes))

    async def suspend_job(self, name: str, suspend: bool) -> None:
        """Suspend or resume the Job of an attempt, as a queue controller does."""
        job = await self.cluster.get(JOBS, "default", name)
        await self.cluster.put(JOBS, {**job, "spec": {**job["spec"], "suspend": suspend}})

    async def gone(self, *resources: Resource) -> None:
        """Wait until no object of these resources exists."""
        async with asyncio.timeout(10):
            while [obj for resource in resources for obj in await self.cluster.list(resource, "default")]:
                await asyncio.sleep(0.005)

    def say(
        self, pod: Object, run: RunStatus, phase: RankPhase = RankPhase.TRAIN, step: int = 1, **changes: Any
    ) -> None:
        """Set the status that the pod's agent returns from now on, for one rank per pod.

        `figures` in `changes` adds fields to the progress.
        """
        index = index_of(pod)
        rank = RankStatus(
            rank=index,
            world=changes.get("world", run.world),
            config_digest=changes.get("config_digest", run.config_digest),
            backend="gloo",
            zero_stage=run.zero_stage,
            phase=phase,
            step=step,
            heartbeat=1_800_000_000,
        )
        figures = {"loss": 1.0 / step, "eta_seconds": 30.0 - step, **changes.get("figures", {})}
        progress = Progress(step=step, total_steps=30, epoch=0.1 * step, **figures)
        answer = PodStatus(
            pod_uid=changes.get("pod_uid", pod["metadata"]["uid"]),
            attempt=run.attempt,
            nonce=changes.get("nonce", run.nonce),
            index=index,
            ranks=(rank,),
            progress=progress if index == 0 else None,
            checkpoint=changes.get("checkpoint"),
        )
        self.answers[pod["metadata"]["uid"]] = answer.to_json().encode()


def claim(name: str, *modes: str) -> Object:
    """Return a claim with these access modes."""
    metadata = {"name": name, "namespace": "default"}
    spec = {"accessModes": list(modes)}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def index_of(pod: Object) -> int:
    """Return the pod's completion index."""
    return int(pod["metadata"]["labels"][constants.LABEL_INDEX])


def last_words(pod: Object, run: RunStatus, exit_code: int = 0, **changes: Any) -> str:
    """Return the pod's termination message."""
    fields: dict[str, Any] = {
        "pod_uid": pod["metadata"]["uid"],
        "index": index_of(pod),
        "attempt": run.attempt,
        "nonce": run.nonce,
        "exit_code": exit_code,
        "world": run.world,
        "config_digest": run.config_digest,
        "result": RESULT if index_of(pod) == 0 and exit_code == 0 else None,
    }
    return TerminationMessage(**{**fields, **changes}).fit()


@asynccontextmanager
async def operated(
    settings: Settings = SETTINGS,
    automatic: bool = True,
    options: Options | None = None,
    admission: Admit | None = admit,
    modes: tuple[str, ...] | None = ("ReadWriteMany",),
) -> AsyncIterator[World]:
    """Run a cluster with an operator until the block ends.

    Without `admission` the cluster accepts every FineTuneJob. `modes` are the access modes of the default claim, which
    jobs use that name none; with None this claim does not exist.
    """
    answers: dict[str, bytes] = {}
    driver = ScriptedDriver(automatic=automatic, answer=lambda pod, path: answers.get(pod["metadata"]["uid"]))
    async with run_locally(driver, settings, "default", options, admission) as (cluster, operator):
        if modes:
            await cluster.create(CLAIMS, claim(constants.DEFAULT_CLAIM, *modes))
        yield World(cluster, driver, answers)
        if operator.done():
            operator.result()


def run_of(status: FineTuneJobStatus) -> RunStatus:
    """Return the status's run, which must exist."""
    assert status.run is not None
    return status.run


def condition(status: FineTuneJobStatus, kind: str) -> tuple[str, str]:
    """Return the status and the reason of a condition."""
    return next((c.status, c.reason) for c in status.conditions if c.type == kind)


def as_json(obj: Any) -> str:
    """Return the object as JSON with sorted keys, for comparisons."""
    return json.dumps(obj, sort_keys=True)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
