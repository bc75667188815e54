"""reconcile(key): observe, decide, execute. The only writer of a job's status and the only maker of its children."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus
from finetune_operator.build.children import children
from finetune_operator.build.event import event
from finetune_operator.core.conditions import is_true
from finetune_operator.core.decide import Decision, decide, decide_invalid, stall
from finetune_operator.core.naming import child_name
from finetune_operator.core.observed import JobView, Observed, PodView
from finetune_operator.core.resolve import storage_claim
from finetune_operator.core.retrain import run_is_needed
from finetune_operator.core.settings import Settings
from finetune_operator.core.transitions import notes
from finetune_operator.protocol import (
    CLAIMS,
    CORE_EVENTS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    AlreadyExistsError,
    ApiError,
    Cluster,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_operator.runtime.agents import ask
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.intake import Key
from finetune_operator.runtime.metrics import Metrics
from finetune_trainer.contract import PodStatus

REFUSED_AFTER = 5.0
"""Seconds in which the Job controller may be slow to make pods before its events are asked why."""

logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The clock of a real operator."""
    return datetime.now(UTC)


@dataclass
class _Asked:
    """When the agents of a job were last asked: rank 0's, and the others."""

    first: datetime
    others: datetime


@dataclass
class Reconciler:
    """Brings one job a step further; called again when something changes or the returned seconds have passed."""

    cluster: Cluster
    settings: Settings
    evidence: Evidence
    now: Callable[[], datetime] = utc_now
    nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self._asked: dict[Key, _Asked] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Observe, decide, execute. Raises ApiError when the API server cannot be reached or says no."""
        try:
            with self.metrics.reconcile():
                return await self._step(key)
        except ConflictError:
            return 0  # somebody wrote in between: look and decide again
        except NotFoundError:
            self._forget(key)
            return None  # the job, or its namespace, went in between: nothing is left to do

    def _forget(self, key: Key) -> None:
        self._asked.pop(key, None)
        self.metrics.forget(key)

    async def _step(self, key: Key) -> float | None:
        manifest = await self.cluster.get(FINETUNEJOBS, key.namespace, key.name)
        if "deletionTimestamp" in manifest["metadata"]:
            self._forget(key)
            return None
        self.metrics.saw(key, manifest.get("status", {}).get("phase"))
        try:
            job = parse(manifest)
        except InvalidManifestError as error:
            status = FineTuneJobStatus.model_validate(manifest.get("status", {}))
            generation = manifest["metadata"].get("generation", 1)
            return await self._execute(manifest, None, decide_invalid(status, generation, error.sentences, self.now()))
        return await self._execute(manifest, job, decide(await self._observe(key, job), self.settings))

    # ---- observe ----------------------------------------------------------------------------------------------------

    async def _observe(self, key: Key, job: FineTuneJob) -> Observed:
        run, metadata = job.status.run, job.metadata
        if run is None or run.completion_time:
            self._asked.pop(key, None)
            several = job.spec.resources.nodes > 1 and run_is_needed(job)
            modes = await self._claim_modes(job) if several else None
            return Observed(job, self.now(), self.nonce(), claim_modes=modes)
        name = child_name(metadata.name, metadata.uid, run.number, run.attempt)
        try:
            child = JobView.of(await self.cluster.get(JOBS, metadata.namespace, name))
        except NotFoundError:
            gone = self.evidence.merged(run.job_uid, ()) if run.job_uid else ()
            return Observed(job, self.now(), self.nonce(), pods=gone)
        listed = await self.cluster.list(PODS, metadata.namespace, {constants.LABEL_JOB_NAME: name})
        pods = self.evidence.merged(child.uid, map(PodView.of, listed))
        ours = child.owner_uid == metadata.uid  # no pod of a Job that only bears the name is dialled
        return Observed(
            job,
            self.now(),
            self.nonce(),
            child,
            pods,
            await self._answers(key, job, [pod for pod in listed if ours and _is_of(pod, child.uid)]),
            await self._refusal(metadata.namespace, child, pods),
        )

    async def _answers(self, key: Key, job: FineTuneJob, pods: list[dict[str, Any]]) -> dict[str, PodStatus]:
        """Of all pods until the world is complete; later of rank 0's once in an interval, and of the others less often.

        What wakes the reconciler in between, such as its own writing of progress, asks nobody.
        """
        run, now = job.status.run, self.now()
        assert run is not None
        running = [pod for pod in pods if PodView.of(pod).running and pod["status"].get("podIP")]
        asked = self._asked.get(key) if is_true(job.status.conditions, constants.ConditionType.WORLD_READY) else None
        if asked and _within(now - asked.first, self.settings.progress_interval):
            return {}
        if asked and _within(now - asked.others, self.settings.peers_interval):
            running = [pod for pod in running if PodView.of(pod).index == 0]
            self._asked[key] = _Asked(now, asked.others)
        else:
            self._asked[key] = _Asked(now, now)
        return await ask(self.cluster, run, running, self.settings.agent_port)

    async def _claim_modes(self, job: FineTuneJob) -> tuple[str, ...] | None:
        name = storage_claim(job.spec, self.settings.claim)
        with suppress(NotFoundError):
            claim = await self.cluster.get(CLAIMS, job.metadata.namespace, name)
            return tuple(claim["spec"].get("accessModes", ()))
        return None

    async def _refusal(self, namespace: str, child: JobView, pods: tuple[PodView, ...]) -> str | None:
        """Quota, LimitRange and Pod Security refuse the Job controller, not us: its events tell."""
        alive = [pod for pod in pods if not pod.failed]
        if len(alive) >= child.parallelism or child.failure or child.succeeded:
            return None
        if (self.now() - child.created).total_seconds() < REFUSED_AFTER:
            return None
        for told in reversed(await self.cluster.list(CORE_EVENTS, namespace)):
            if told.get("involvedObject", {}).get("uid") == child.uid and told.get("reason") == "FailedCreate":
                return f"no pod can be made: {told.get('message', '')}"
        return None

    # ---- execute ----------------------------------------------------------------------------------------------------

    async def _execute(self, manifest: Object, job: FineTuneJob | None, decision: Decision) -> float | None:
        if decision.status is not None:
            await self._write(manifest, decision.status)
        if decision.create_children and job is not None:
            return await self._create(manifest, job, decision)
        return decision.look_again

    async def _write(self, manifest: Object, status: FineTuneJobStatus) -> None:
        """Nothing, if nothing has changed; ConflictError if somebody was faster: then it is decided again."""
        old = FineTuneJobStatus.model_validate(manifest.get("status", {}))
        fields = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        if fields == old.model_dump(mode="json", by_alias=True, exclude_none=True):
            return
        written = await self.cluster.put_status(FINETUNEJOBS, {**manifest, "status": fields})
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        self.metrics.wrote(old, status)
        for note in notes(old, status):
            logger.info("%s: %s: %s", key, note.reason, note.message)
            with suppress(ApiError):
                await self.cluster.create(EVENTS, event(written, note, self.now()))

    async def _create(self, manifest: Object, job: FineTuneJob, decision: Decision) -> float | None:
        """Children are made, never changed; one that exists is right if it is ours."""
        assert job.status.run is not None
        for resource, child in children(job, job.status.run, self.settings):
            try:
                await self.cluster.create(resource, child)
            except AlreadyExistsError:
                if not await self._ours(resource, child, job.metadata.uid):
                    name = child["metadata"]["name"]
                    return await self._stall(manifest, constants.NAME_CONFLICT, kind=resource.kind, name=name)
            except (ForbiddenError, InvalidError) as error:
                action = f"create {resource.kind} {child['metadata']['name']}"
                return await self._stall(manifest, constants.REFUSED, action=action, detail=error.message)
        return decision.look_again

    async def _ours(self, resource: Resource, child: Object, uid: str) -> bool:
        existing = await self.cluster.get(resource, child["metadata"]["namespace"], child["metadata"]["name"])
        return _is_of(existing, uid)

    async def _stall(self, manifest: Object, reason: constants.Reason, **words: str) -> float | None:
        status = FineTuneJobStatus.model_validate(manifest.get("status", {}))
        generation = manifest["metadata"].get("generation", 1)
        decision = stall(status, generation, self.now(), reason, **words)
        return await self._execute(manifest, None, decision)


def _within(elapsed: timedelta, seconds: float) -> bool:
    """A clock that was set back must not silence anybody."""
    return timedelta() <= elapsed < timedelta(seconds=seconds)


def _is_of(child: Object, uid: str) -> bool:
    return any(o.get("controller") and o["uid"] == uid for o in child["metadata"].get("ownerReferences", []))
