"""Reconciles a job: observe, decide, execute.

The reconciler is the only writer of a job's status and the only creator of its children.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from finetune_operator import constants
from finetune_operator.api.parse import InvalidManifestError, parse, read_status
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus, RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.decide import Decision, decide, decide_invalid, stall
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.cadence import is_transition
from finetune_operator.core.status.transitions import Note, note, notes
from finetune_operator.core.times import within
from finetune_operator.manifests.children import children
from finetune_operator.manifests.event import event
from finetune_operator.manifests.look_job import look_job
from finetune_operator.manifests.network_policy import network_policy
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
from finetune_operator.runtime.attempt_children import all_there
from finetune_operator.runtime.job_memory import Because, JobMemories, Key
from finetune_operator.runtime.look import Look
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.observer import Observer, is_of, utc_now
from finetune_operator.runtime.policies import delete_policies, delete_unused_policies, policies_of

logger = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """Advances one job; called again when something changes or the returned seconds have passed."""

    cluster: Cluster
    settings: Settings
    memories: JobMemories
    now: Callable[[], datetime] = utc_now
    nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    jitter: Callable[[], float] = random.random
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self._observer = Observer(self.cluster, self.settings, self.memories, self.now, self.nonce, self.jitter)

    async def reconcile(self, key: Key) -> float | None:
        """Bring a job one step further; return the seconds until the next reconcile, or None.

        1. If nothing has changed since the last look at the API server, report the progress from memory.
        2. Read the FineTuneJob. If it is being deleted, delete its Jobs, so that its pods free their nodes.
        3. If its spec or status cannot be read, write that into its status.
        4. Observe: read the attempt's Job, pods and other children, and ask the agents.
        5. Decide (`core/decide.py`).
        6. Create deleted children again, and decide what else is to be done.
        7. Execute: write the status if it differs, then delete and create objects.

        Raises ApiError if the API server cannot be reached or fails.
        """
        try:
            with self.metrics.reconcile():
                return await self._step(key)
        except ConflictError:
            self.memories.forget(key, Because.CHANGED)
            return 0  # somebody else wrote in between: observe and decide again
        except NotFoundError:
            self.memories.forget(key, Because.DELETED)
            return None  # the job, or its namespace, was deleted in between: nothing is left to do
        except ApiError:
            self.memories.forget(key, Because.CHANGED)
            raise

    async def _step(self, key: Key) -> float | None:
        # 1. Report the progress from memory.
        if look := self.memories.last_look(key, self.now()):
            look = replace(look, observed=await self._observer.again(key, look.observed))
            decision = decide(look.observed, self.settings)
            if decision.is_report:
                return await self._report(key, look, decision)
        # 2. Read the FineTuneJob.
        began = self.memories.begin_look(key, self.now())
        manifest = await self.cluster.get(FINETUNEJOBS, key.namespace, key.name)
        if "deletionTimestamp" in manifest["metadata"]:
            await self._free(manifest)
            self.memories.forget(key, Because.DELETED)
            return None
        # 3. A job that cannot be read.
        try:
            job = parse(manifest)
        except InvalidManifestError as error:
            status, _ = read_status(manifest.get("status"))
            self.memories.of(key).phase = status.phase or Phase.PENDING
            return await self._tell(manifest, decide_invalid(status, _generation(manifest), error, self.now()))
        self.memories.of(key).phase = job.status.phase or Phase.PENDING
        try:
            # 4. Observe.
            look = Look(began, manifest, await self._observer.observe(key, job))
            await self._delete_unused_policies(look.observed.job, look.observed.other_policies)
            # 5. Decide.
            decision = decide(look.observed, self.settings)
            # 6. Create deleted children again.
            if decision.make_again or decision.notes:
                await self._make_again(key, look, decision)
                look = replace(look, observed=replace(look.observed, missing=()))
                decision = decide(look.observed, self.settings)
            # 7. Execute.
            return await (self._report if decision.is_report else self._execute)(key, look, decision)
        except (ForbiddenError, InvalidError) as error:
            return await self._refused(manifest, "let the operator work on the job", error)

    # ---- execute ----------------------------------------------------------------------------------------------------

    async def _report(self, key: Key, look: Look, decision: Decision) -> float | None:
        assert decision.status is not None
        manifest, wait = await self._write(look.manifest, decision.status)
        self.memories.keep_look(key, look if wait else look.after_write(manifest, decision.status))
        if decision.delete_job:
            await self._delete(JOBS, look.observed.job, decision.delete_job)
        return _sooner(wait, decision.look_again)

    async def _execute(self, key: Key, look: Look, decision: Decision) -> float | None:
        job = look.observed.job
        if decision.status is not None:
            manifest, wait = await self._write(look.manifest, decision.status)
            if wait:
                return _sooner(wait, decision.look_again)
            look = look.after_write(manifest, decision.status)
        if decision.delete_job:
            await self._delete(JOBS, job, decision.delete_job)
        if decision.delete_children:
            await self._delete_children(job, decision.delete_policies)
        if decision.free_claim:
            await self._free_claim(job)
        if decision.create_look_job:
            return await self._create_look_job(look, decision)
        return await self._create(key, look, decision) if decision.create_children else decision.look_again

    async def _tell(self, manifest: Object, decision: Decision) -> float | None:
        """Write the status of a job for which nothing more can be done."""
        assert decision.status is not None
        _, wait = await self._write(manifest, decision.status)
        return _sooner(wait, decision.look_again)

    async def _write(self, manifest: Object, status: FineTuneJobStatus) -> tuple[Object, float]:
        """Write the status if it has changed; a change that is no transition may have to wait.

        Return the object as it is now, and the seconds until the status can be written, or 0. Raises ConflictError if
        somebody else wrote first; then the job is decided again.
        """
        old, faults = read_status(manifest.get("status"))
        fields = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        if fields == old.model_dump(mode="json", by_alias=True, exclude_none=True):
            return manifest, 0
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        interval, last = self.settings.progress_interval, self.memories.find(key).written
        if last and within(since := self.now() - last, interval) and not is_transition(old, status):
            return manifest, interval - since.total_seconds()
        # Fields that cannot be read stay, so that users can inspect them, unless they are overwritten.
        unread = {name: manifest["status"][name] for name, _ in faults if name in manifest["status"]}
        written = await self.cluster.put_status(FINETUNEJOBS, {**manifest, "status": {**unread, **fields}})
        memory = self.memories.of(key)
        memory.written, memory.phase = self.now(), status.phase or Phase.PENDING
        self.metrics.wrote(old, status)
        await self._publish(key, written, notes(old, status))
        return written, 0

    async def _create(self, key: Key, look: Look, decision: Decision) -> float | None:
        """Create the children of the attempt, and delete what is left of the attempt before the previous one.

        Children are created and never changed; an existing one is right if it is ours. Of the old attempt the Job is
        deleted first, because a quota may count it, and the ConfigMap last, because it may have the only copy of the
        spec.
        """
        job = look.observed.job
        run = job.status.run
        assert run is not None
        made: Object | None = None
        made_now = children(job, run, self.settings)
        is_first = (run.number, run.attempt) == (1, 1)
        policies = await policies_of(self.cluster, job) if self.settings.network and not is_first else frozenset()
        self.memories.of(key).children = all_there(self.now(), made_now)
        if run.attempt > 2:
            await self._delete(JOBS, job, self._name(job, run, run.attempt - 2))
        for resource, child in made_now:
            try:
                if resource is NETWORKPOLICIES and child["metadata"]["name"] in policies:
                    continue
                made = await self.cluster.create(resource, child)
            except AlreadyExistsError:
                made = None
                if not await self._ours(resource, child, job.metadata.uid):
                    name = child["metadata"]["name"]
                    return await self._stall(look.manifest, constants.NAME_CONFLICT, kind=resource.kind, name=name)
            except (ForbiddenError, InvalidError) as error:
                if run.attempt > 1:
                    await self._delete(JOBS, job, self._name(job, run, run.attempt - 1))
                return await self._refused(look.manifest, f"create {resource.kind} {child['metadata']['name']}", error)
        if look.observed.child:
            self.memories.of(key).followed.add(look.observed.child.uid)
        if made:  # the last child is the Job
            self.memories.keep_look(key, look.of_new_attempt(made))
        if run.attempt > 2:
            await self._delete_attempt(job, run, run.attempt - 2)
        await self._delete_unused_policies(job, policies)
        return decision.look_again

    async def _create_look_job(self, look: Look, decision: Decision) -> float | None:
        job, run = look.observed.job, look.observed.job.status.run
        assert run is not None
        made = look_job(job, run, self.settings)
        try:
            with suppress(AlreadyExistsError):  # the next reconcile checks its owner
                await self.cluster.create(JOBS, made)
        except (ForbiddenError, InvalidError) as error:
            return await self._refused(look.manifest, f"create Job {made['metadata']['name']}", error)
        return decision.look_again

    async def _free_claim(self, job: FineTuneJob) -> None:
        run = job.status.run
        assert run is not None
        for attempt in range(max(1, run.attempt - 2), run.attempt):
            await self._delete(JOBS, job, self._name(job, run, attempt))

    async def _make_again(self, key: Key, look: Look, decision: Decision) -> None:
        """Create the children that the attempt has lost.

        If one cannot be created, the attempt goes on: an event reports why, and the next reconcile tries again.
        """
        job, run = look.observed.job, look.observed.job.status.run
        assert run is not None
        told = list(decision.notes)
        wanted = {child.kind for child in decision.make_again}
        for resource, child in children(job, run, self.settings):
            if resource.kind not in wanted:
                continue
            words = {"kind": resource.kind, "name": child["metadata"]["name"]}
            try:
                await self.cluster.create(resource, child)
                told.append(note(constants.MADE_AGAIN, attempt=run.attempt, run=run.number, **words))
            except AlreadyExistsError:
                with suppress(NotFoundError):  # it was deleted since; the next reconcile finds it missing
                    if not await self._ours(resource, child, job.metadata.uid):
                        told.append(note(constants.NAME_CONFLICT, **words))
            except (ForbiddenError, InvalidError) as error:
                action = f"create {resource.kind} {words['name']} again"
                told.append(note(constants.REFUSED, action=action, detail=error.message))
        await self._publish(key, look.manifest, told)

    async def _publish(self, key: Key, manifest: Object, told: Iterable[Note]) -> None:
        """Create events about the job; one that cannot be created is left out."""
        for one in told:
            logger.info("%s: %s: %s", key, one.reason, one.message)
            with suppress(ApiError):
                await self.cluster.create(EVENTS, event(manifest, one, self.now()))

    async def _delete(self, resource: Resource, job: FineTuneJob, name: str) -> None:
        with suppress(NotFoundError):
            await self.cluster.delete(resource, job.metadata.namespace, name)

    async def _free(self, manifest: Object) -> None:
        """Delete the Jobs of a job whose own deletion waits for a finalizer, so that its pods free their nodes now.

        With `orphan` among the finalizers, somebody wants the Jobs to stay.
        """
        metadata, run = manifest["metadata"], read_status(manifest.get("status"))[0].run
        if run is None or "orphan" in metadata.get("finalizers", ()):
            return
        for attempt in (run.attempt, run.attempt - 1):
            name = child_name(metadata["name"], metadata["uid"], run.number, attempt)
            with suppress(NotFoundError):
                found = await self.cluster.get(JOBS, metadata["namespace"], name)
                if is_of(found, metadata["uid"]) and "deletionTimestamp" not in found["metadata"]:
                    await self.cluster.delete(JOBS, metadata["namespace"], name)

    async def _delete_children(self, job: FineTuneJob, with_policies: bool) -> None:
        """Delete the children of the newest run.

        Those of the last attempt are deleted last: as long as one of them exists, others may exist too.
        """
        run = job.status.run
        assert run is not None
        for attempt in range(1, run.attempt):
            await self._delete_attempt(job, run, attempt)
        if with_policies and self.settings.network:
            await delete_policies(self.cluster, job, await policies_of(self.cluster, job))
        await self._delete_attempt(job, run, run.attempt)

    async def _delete_attempt(self, job: FineTuneJob, run: RunStatus, attempt: int) -> None:
        for resource in (SERVICES, CONFIGMAPS, JOBS):
            await self._delete(resource, job, self._name(job, run, attempt))

    def _name(self, job: FineTuneJob, run: RunStatus, attempt: int) -> str:
        return child_name(job.metadata.name, job.metadata.uid, run.number, attempt)

    async def _delete_unused_policies(self, job: FineTuneJob, names: Iterable[str]) -> None:
        if policy := network_policy(job, self.settings):
            await delete_unused_policies(self.cluster, job, names, needed=policy["metadata"]["name"])

    async def _ours(self, resource: Resource, child: Object, uid: str) -> bool:
        existing = await self.cluster.get(resource, child["metadata"]["namespace"], child["metadata"]["name"])
        return is_of(existing, uid)

    async def _refused(self, manifest: Object, action: str, error: ApiError) -> float | None:
        """Report that the API server refuses a request, which is tried again.

        The cause is a quota, a missing permission or an admission rule.
        """
        return await self._stall(manifest, constants.REFUSED, action=action, detail=error.message)

    async def _stall(self, manifest: Object, reason: constants.Reason, **words: str) -> float | None:
        status, _ = read_status(manifest.get("status"))
        decision = stall(status, _generation(manifest), self.now(), reason, **words)
        return await self._tell(manifest, decision)


def _sooner(wait: float, look_again: float | None) -> float | None:
    """Return the sooner of two times in seconds; `wait` is 0 if no write waits."""
    return min(wait, look_again or wait) if wait else look_again


def _generation(manifest: Object) -> int:
    generation: int = manifest["metadata"].get("generation", 1)
    return generation
