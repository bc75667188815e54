"""reconcile(key): observe, decide, execute. The only writer of a job's status and the only maker of its children."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, parse, read_status
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus
from finetune_operator.build.children import children
from finetune_operator.build.event import event
from finetune_operator.core.cadence import is_transition
from finetune_operator.core.decide import Decision, decide, decide_invalid, stall
from finetune_operator.core.naming import child_name
from finetune_operator.core.settings import Settings
from finetune_operator.core.transitions import notes
from finetune_operator.protocol import (
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    NETWORKPOLICIES,
    SERVICES,
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
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.intake import Key
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.observer import Observer, is_of, utc_now

logger = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """Brings one job a step further; called again when something changes or the returned seconds have passed."""

    cluster: Cluster
    settings: Settings
    evidence: Evidence
    now: Callable[[], datetime] = utc_now
    nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    jitter: Callable[[], float] = random.random
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self._observer = Observer(self.cluster, self.settings, self.evidence, self.now, self.nonce, self.jitter)
        self._written: dict[Key, datetime] = {}
        """When the status of a job was last written."""

    async def reconcile(self, key: Key) -> float | None:
        """Observe, decide, execute. Raises ApiError when the API server cannot be reached or stumbles."""
        try:
            with self.metrics.reconcile():
                return await self._step(key)
        except ConflictError:
            return 0  # somebody wrote in between: look and decide again
        except NotFoundError:
            self._gone(key)
            return None  # the job, or its namespace, went in between: nothing is left to do

    def _gone(self, key: Key) -> None:
        self.forget(key)
        self.evidence.forget(key)

    def forget(self, key: Key) -> None:
        """The job is gone, or others look after it."""
        self._observer.forget(key)
        self._written.pop(key, None)
        self.metrics.forget(key)

    async def _step(self, key: Key) -> float | None:
        manifest = await self.cluster.get(FINETUNEJOBS, key.namespace, key.name)
        if "deletionTimestamp" in manifest["metadata"]:
            self._gone(key)
            return None
        try:
            job = parse(manifest)
        except InvalidManifestError as error:
            status, _ = read_status(manifest.get("status"))
            self.metrics.saw(key, status.phase)
            return await self._execute(manifest, None, decide_invalid(status, _generation(manifest), error, self.now()))
        self.metrics.saw(key, job.status.phase)
        try:
            observed = await self._observer.observe(key, job)
            return await self._execute(manifest, observed.job, decide(observed, self.settings))
        except (ForbiddenError, InvalidError) as error:
            return await self._refused(manifest, "let the operator work on the job", error)

    # ---- execute ----------------------------------------------------------------------------------------------------

    async def _execute(self, manifest: Object, job: FineTuneJob | None, decision: Decision) -> float | None:
        if decision.status is not None and (wait := await self._write(manifest, decision.status)):
            return min(wait, decision.look_again or wait)
        if decision.create_children and job is not None:
            return await self._create(manifest, job, decision)
        if decision.delete_job and job is not None:
            await self._delete(JOBS, job, decision.delete_job)
        if decision.delete_children and job is not None:
            await self._delete_children(job)
        return decision.look_again

    async def _write(self, manifest: Object, status: FineTuneJobStatus) -> float:
        """Nothing, if nothing has changed; ConflictError if somebody was faster: then it is decided again.

        Returns after how many seconds it is written, if it is not yet: what is no transition waits its turn."""
        old, faults = read_status(manifest.get("status"))
        fields = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        if fields == old.model_dump(mode="json", by_alias=True, exclude_none=True):
            return 0
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        since = self.settings.progress_interval
        if last := self._written.get(key):
            since = abs((self.now() - last).total_seconds())  # a clock that was set back silences nobody for long
        if since < self.settings.progress_interval and not is_transition(old, status):
            return self.settings.progress_interval - since
        # What cannot be read stays, for a person to look at, unless it is written anew.
        unread = {name: manifest["status"][name] for name, _ in faults if name in manifest["status"]}
        written = await self.cluster.put_status(FINETUNEJOBS, {**manifest, "status": {**unread, **fields}})
        self._written[key] = self.now()
        self.metrics.wrote(old, status)
        for note in notes(old, status):
            logger.info("%s: %s: %s", key, note.reason, note.message)
            with suppress(ApiError):
                await self.cluster.create(EVENTS, event(written, note, self.now()))
        return 0

    async def _create(self, manifest: Object, job: FineTuneJob, decision: Decision) -> float | None:
        """Children are made, never changed; one that exists is right if it is ours."""
        assert job.status.run is not None
        later = job.status.run.attempt > 1
        for resource, child in children(job, job.status.run, self.settings):
            try:
                if later and resource is NETWORKPOLICIES and await self._is_there(resource, child, job.metadata.uid):
                    continue  # all attempts share it
                await self.cluster.create(resource, child)
            except AlreadyExistsError:
                if not await self._ours(resource, child, job.metadata.uid):
                    name = child["metadata"]["name"]
                    return await self._stall(manifest, constants.NAME_CONFLICT, kind=resource.kind, name=name)
            except (ForbiddenError, InvalidError) as error:
                return await self._refused(manifest, f"create {resource.kind} {child['metadata']['name']}", error)
        return decision.look_again

    async def _delete(self, resource: Resource, job: FineTuneJob, name: str) -> None:
        with suppress(NotFoundError):
            await self.cluster.delete(resource, job.metadata.namespace, name)

    async def _delete_children(self, job: FineTuneJob) -> None:
        """Of the newest run. Those of the last attempt go last: as long as one is there, the rest may be."""
        run = job.status.run
        assert run is not None
        for attempt in range(1, run.attempt + 1):
            name = child_name(job.metadata.name, job.metadata.uid, run.number, attempt)
            for resource in (SERVICES, CONFIGMAPS, JOBS):
                await self._delete(resource, job, name)

    async def _is_there(self, resource: Resource, child: Object, uid: str) -> bool:
        with suppress(NotFoundError):
            return await self._ours(resource, child, uid)
        return False

    async def _ours(self, resource: Resource, child: Object, uid: str) -> bool:
        existing = await self.cluster.get(resource, child["metadata"]["namespace"], child["metadata"]["name"])
        return is_of(existing, uid)

    async def _refused(self, manifest: Object, action: str, error: ApiError) -> float | None:
        """Quota, a missing right or an admission rule: it is told, and tried again."""
        return await self._stall(manifest, constants.REFUSED, action=action, detail=error.message)

    async def _stall(self, manifest: Object, reason: constants.Reason, **words: str) -> float | None:
        status, _ = read_status(manifest.get("status"))
        decision = stall(status, _generation(manifest), self.now(), reason, **words)
        return await self._execute(manifest, None, decision)


def _generation(manifest: Object) -> int:
    generation: int = manifest["metadata"].get("generation", 1)
    return generation
