"""Observes all that one decision needs: the API server's current objects, and what is remembered of deleted pods.

A cache that a watch fills would be late, so decisions are made on what the API server returns now. Only a report on an
attempt that goes on may use remembered objects (`again`).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec, RunStatus
from finetune_operator.core.attempt.cause import has_failed, stops_by_itself
from finetune_operator.core.attempt.checkpoint import asked_for
from finetune_operator.core.attempt.success import lacks_result
from finetune_operator.core.observed.claims import Claims, ClaimView
from finetune_operator.core.observed.foreign import controller_uid
from finetune_operator.core.observed.views import JobView, LookJobView, Observed, PodView
from finetune_operator.core.run.naming import child_name, look_name
from finetune_operator.core.run.resolve import claims_of, storage_claim
from finetune_operator.core.run.retrain import is_edited, run_is_needed, with_spec_of_run
from finetune_operator.core.run.ttl import seconds_left
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.conditions import is_true
from finetune_operator.core.status.progress import attested
from finetune_operator.core.times import within
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    CORE_EVENTS,
    JOBS,
    PODS,
    SERVICES,
    Cluster,
    NotFoundError,
    Object,
)
from finetune_operator.runtime.agents import ask
from finetune_operator.runtime.attempt_children import Found, look_for_children
from finetune_operator.runtime.job_memory import Asked, Because, JobMemories, Key
from finetune_trainer.contract import PodStatus

REFUSED_AFTER = 5.0
"""Seconds that the Job controller may take to create pods before its events are read for a reason."""


def utc_now() -> datetime:
    """Return the current time, by the clock of a real operator."""
    return datetime.now(UTC)


@dataclass
class Observer:
    """A reader of all that one decision needs; it writes nothing, and its methods raise ApiError."""

    cluster: Cluster
    settings: Settings
    memories: JobMemories
    now: Callable[[], datetime] = utc_now
    nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    jitter: Callable[[], float] = random.random

    async def again(self, key: Key, before: Observed) -> Observed:
        """Return the same attempt with what events have reported about its pods and what the agents answer now."""
        job, child, run = before.job, before.child, before.job.status.run
        assert run is not None
        assert child is not None
        pods = child.of_this_start(self.memories.told(child.uid, key))
        return replace(
            before,
            now=self.now(),
            nonce=self.nonce(),
            pods=pods,
            answers=await self._answers(key, job, run, pods),
            refused=await self._refusal(job.metadata.namespace, child, pods),
            jitter=self.jitter(),
        )

    async def observe(self, key: Key, job: FineTuneJob) -> Observed:
        """Return what exists now."""
        run = job.status.run
        if run is None or run.completion_time:
            self.memories.forget(key, Because.AT_REST)
            return await self._at_rest(job, run)
        edited = is_edited(job, run)
        own = await self._with_own_spec(job, run) if edited else job
        lost = own is None
        own = own or job
        name = child_name(job.metadata.name, job.metadata.uid, run.number, run.attempt)
        try:
            found = await self.cluster.get(JOBS, job.metadata.namespace, name)
        except NotFoundError:
            seen = await self._without_child(key, own, run, edited)
        else:
            seen = await self._with_child(key, own, run, found, edited)
        return replace(seen, edit=job.spec if edited else None, spec_lost=lost)

    async def _at_rest(self, job: FineTuneJob, run: RunStatus | None) -> Observed:
        starts = run_is_needed(job) and not job.spec.suspend
        claim = storage_claim(job.spec, self.settings.claim)
        return Observed(
            job,
            self.now(),
            self.nonce(),
            await self._released(job, run) if run else None,
            claims=await self._claims(job, claim) if starts else None,
            remaining=await self._remaining(job) if run and job.spec.suspend else (),
            leftover=run is not None and self._may_go(job, run) and await self._leftover(job, run),
            jitter=self.jitter(),
        )

    async def _without_child(self, key: Key, job: FineTuneJob, run: RunStatus, edited: bool) -> Observed:
        """Observe an attempt that has not started, or whose Job was deleted."""
        if run.job_uid is not None:
            gone = self.memories.merged(run.job_uid, (), key)
            return Observed(job, self.now(), self.nonce(), pods=gone, edited=edited, jitter=self.jitter())
        remaining = () if (run.number, run.attempt) == (1, 1) else await self._remaining(job)
        return Observed(
            job,
            self.now(),
            self.nonce(),
            claims=None if job.spec.suspend else await self._claims(job, run.claim_name),
            previous=await self._previous(key, job, run) if run.attempt > 1 else None,
            remaining=remaining,
            edited=edited,
            jitter=self.jitter(),
        )

    async def _with_child(self, key: Key, job: FineTuneJob, run: RunStatus, found: Object, edited: bool) -> Observed:
        child, name, namespace = JobView.of(found), found["metadata"]["name"], job.metadata.namespace
        listed = await self.cluster.list(PODS, namespace, {constants.LABEL_JOB_NAME: name})
        self.memories.keep_only(child.uid, key)
        pods = self.memories.merged(child.uid, map(PodView.of, listed), key)
        if not child.failure and any(pod.deleted for pod in pods):
            child = await self._read_again(namespace, name, child)
        pods = child.of_this_start(pods)
        ours = child.owner_uid == job.metadata.uid  # the pods of another owner's Job of this name are never dialled
        alive = ours and not has_failed(child, pods)
        found_children = await self._children(key, job, run, found) if alive else Found()
        may_follow = ours and not alive and not job.spec.suspend
        return Observed(
            job,
            self.now(),
            self.nonce(),
            child,
            pods,
            await self._answers(key, job, run, pods) if alive else {},
            await self._refusal(namespace, child, pods),
            claims=await self._claims(job, run.claim_name) if may_follow else None,
            look_job=await self._look_job(namespace, name) if ours and lacks_result(run, child, pods) else None,
            missing=found_children.missing,
            other_policies=found_children.other_policies,
            edited=edited,
            jitter=self.jitter(),
        )

    async def _read_again(self, namespace: str, name: str, child: JobView) -> JobView:
        """Return the Job as it is after its pods were listed.

        The pods of a Job that a queue suspends are deleted, and the first read of the Job may have been before that.
        """
        try:
            return JobView.of(await self.cluster.get(JOBS, namespace, name))
        except NotFoundError:
            return replace(child, deleted=True)

    async def _look_job(self, namespace: str, child: str) -> LookJobView | None:
        """Return the Job that reads the attempt's result from the workspace, if it exists."""
        name = look_name(child)
        with suppress(NotFoundError):
            job = await self.cluster.get(JOBS, namespace, name)
            pods = await self.cluster.list(PODS, namespace, {constants.LABEL_JOB_NAME: name})
            return LookJobView.of(job, pods, self.now())
        return None

    async def _children(self, key: Key, job: FineTuneJob, run: RunStatus, child: Object) -> Found:
        memory = self.memories.of(key)
        return await look_for_children(self.cluster, memory, self.now(), child, job, run, self.settings)

    async def _released(self, job: FineTuneJob, run: RunStatus) -> JobView | None:
        """Return the Job of an ended run whose pods must still be deleted."""
        return await self._job(job, run.number, run.attempt) if run.release else None

    def _may_go(self, job: FineTuneJob, run: RunStatus) -> bool:
        """Return whether the children of an ended run may be deleted.

        They may if their time is over, or if another run takes its place.
        """
        left = seconds_left(run, job.spec.ttl_seconds_after_finished, self.now())
        return run_is_needed(job) or (left is not None and left <= 0)

    async def _leftover(self, job: FineTuneJob, run: RunStatus) -> bool:
        """Return whether children of the run exist.

        The children of its last attempt, or of the previous one if the last never began, are deleted last.
        """
        for attempt in (run.attempt, run.attempt - 1):
            name = child_name(job.metadata.name, job.metadata.uid, run.number, attempt)
            for resource in (JOBS, CONFIGMAPS, SERVICES):
                with suppress(NotFoundError):
                    found = await self.cluster.get(resource, job.metadata.namespace, name)
                    if is_of(found, job.metadata.uid) and "deletionTimestamp" not in found["metadata"]:
                        return True
        return False

    async def _remaining(self, job: FineTuneJob) -> tuple[PodView, ...]:
        """Return the pods of all attempts and runs that have not ended."""
        listed = await self.cluster.list(PODS, job.metadata.namespace, {constants.LABEL_JOB: job.metadata.name})
        return tuple(pod for pod in map(PodView.of, listed) if not pod.ended_or_gone)

    async def _job(self, job: FineTuneJob, run: int, attempt: int) -> JobView | None:
        name = child_name(job.metadata.name, job.metadata.uid, run, attempt)
        with suppress(NotFoundError):
            view = JobView.of(await self.cluster.get(JOBS, job.metadata.namespace, name))
            return view if view.owner_uid == job.metadata.uid else None
        return None

    async def _previous(self, key: Key, job: FineTuneJob, run: RunStatus) -> JobView | None:
        """Return the Job of the previous attempt, unless its pods end by themselves."""
        previous = await self._job(job, run.number, run.attempt - 1)
        return None if previous and stops_by_itself(self.memories.told(previous.uid, key)) else previous

    async def _with_own_spec(self, job: FineTuneJob, run: RunStatus) -> FineTuneJob | None:
        """Return the job with the spec of its run, from the newest ConfigMap of the run that has it.

        Return None if all these ConfigMaps were deleted: then the attempt may end, but no other attempt may follow.
        """
        for attempt in range(run.attempt, run.spec_attempt - 1, -1):
            name = child_name(job.metadata.name, job.metadata.uid, run.number, attempt)
            with suppress(NotFoundError, KeyError, ValueError):
                found = await self.cluster.get(CONFIGMAPS, job.metadata.namespace, name)
                if is_of(found, job.metadata.uid):
                    spec = FineTuneJobSpec.model_validate_json(found["data"][constants.SPEC_KEY])
                    return with_spec_of_run(job, spec)
        return None

    async def _answers(
        self, key: Key, job: FineTuneJob, run: RunStatus, pods: tuple[PodView, ...]
    ) -> dict[str, PodStatus]:
        """Return the agents' answers by pod UID.

        Until WorldReady is true, rank 0's pod is asked first, and the others only once it has attested, because no rank
        attests before it. Afterwards rank 0's pod is asked once in an interval, and the others less often. A reconcile
        in between, for example after the operator has written progress, asks no agent.
        """
        now = self.now()
        running = [pod for pod in pods if pod.present and pod.running and pod.ip]
        first, others = ([pod for pod in running if (pod.index == 0) is is_first] for is_first in (True, False))
        ready = is_true(job.status.conditions, constants.ConditionType.WORLD_READY)
        asked = self.memories.find(key).asked if ready else None
        if asked and within(now - asked.first, self.settings.progress_interval):
            return {}
        recently = asked.others if asked and within(now - asked.others, self.settings.peers_interval) else None
        self.memories.of(key).asked = Asked(now, recently or now)
        port, namespace = self.settings.agent_port, job.metadata.namespace
        answers = await ask(self.cluster, run, namespace, first, port, asked_for(job.spec, job.status))
        if not recently and (asked or attested(run, answers.values())):
            answers |= await ask(self.cluster, run, namespace, others, port)
        return answers

    async def _claims(self, job: FineTuneJob, storage: str) -> Claims | None:
        """Return the claims that an attempt mounts; None for local runs, which have folders in their place."""
        if self.settings.local:
            return None
        names = dict.fromkeys((storage, *claims_of(job.spec)))
        return {name: await self._claim(job.metadata.namespace, name) for name in names}

    async def _claim(self, namespace: str, name: str) -> ClaimView | None:
        with suppress(NotFoundError):
            return ClaimView.of(await self.cluster.get(CLAIMS, namespace, name))
        return None

    async def _refusal(self, namespace: str, child: JobView, pods: tuple[PodView, ...]) -> str | None:
        """Return why the Job controller cannot create pods, from its events.

        A quota, a LimitRange or Pod Security refuses the Job controller's requests, not the operator's.
        """
        alive = [pod for pod in pods if not pod.failed]
        if len(alive) >= child.parallelism or child.failure or child.succeeded:
            return None
        if (self.now() - child.created).total_seconds() < REFUSED_AFTER:
            return None
        fields = {"involvedObject.uid": child.uid, "reason": "FailedCreate"}
        told = await self.cluster.list(CORE_EVENTS, namespace, fields=fields)
        newest = max(told, key=lambda event: event.get("lastTimestamp") or "", default=None)
        return f"no pod can be made: {newest.get('message', '')}" if newest else None


def is_of(child: Object, uid: str) -> bool:
    """Return whether an object's controller has that UID."""
    return controller_uid(child.get("metadata")) == uid
