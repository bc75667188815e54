"""Receives watched events, from kopf or from the in-memory cluster: it records pods and queues the job's key.

Nothing is decided here: an event only means that something has changed. An event that ends an attempt or asks for one
queues the key at once, and so does the start of the last pod of a gang. Changes that can wait for the next reconcile
queue nothing: the earlier pod starts, a pod's node, the operator's own status, a Job that was created, the end of pods
whose attempt was followed by another one, and other children as long as they exist. A job that has lost a pod, and so
holds nodes for nothing, or another child that its pods need, is queued before those that wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_operator import constants
from finetune_operator.core.observed.foreign import Fields, controller_uid, fields, text
from finetune_operator.core.observed.views import JobView, PodView
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, NETWORKPOLICIES, PODS, SERVICES, Resource
from finetune_operator.runtime.job_memory import CAPACITY, Because, JobMemories, Key
from finetune_operator.runtime.queue import Queue

SOON = 0.5
"""Seconds within which most pods of a gang are reported as waiting."""


WATCHED = (FINETUNEJOBS, JOBS, PODS, CONFIGMAPS, SERVICES)


class Intake:
    """The receiver of every event of FineTuneJobs and of their children."""

    def __init__(self, queue: Queue[Key], memories: JobMemories, policies: bool = True) -> None:
        """Create an intake for the watched kinds.

        `policies` tells whether NetworkPolicies are created; otherwise the operator may lack the permission to watch
        them.
        """
        self.watched: tuple[Resource, ...] = (*WATCHED, NETWORKPOLICIES) if policies else WATCHED
        """The kinds whose events must be brought here."""
        self._queue = queue
        self._memories = memories
        self._seen: dict[str, Any] = {}
        """The fields of a FineTuneJob or a Job that decisions depend on, as last reported, by UID."""

    def saw(self, resource: Resource, body: dict[str, Any], gone: bool = False) -> None:
        """Handle an object that was added, changed or, if it is `gone`, deleted."""
        metadata = fields(body.get("metadata"))
        own = resource.kind == constants.KIND
        name = text(metadata.get("name") if own else fields(metadata.get("labels")).get(constants.LABEL_JOB))
        namespace, uid = text(metadata.get("namespace")), text(metadata.get("uid"))
        if not (name and namespace and uid):
            return
        key = Key(namespace, name)
        if resource in (CONFIGMAPS, SERVICES, NETWORKPOLICIES):
            if gone:
                self._lost_child(key, (resource.kind, str(metadata.get("name"))))
            return
        if (controller_uid(metadata) if resource is PODS else uid) in self._memories.find(key).followed:
            self._seen.pop(uid, None)
            return
        if resource is PODS:
            self._saw_pod(key, PodView.of(body), gone)
        elif self._is_news(uid, JobView.of(body) if resource is JOBS else _of(metadata), gone):
            self._memories.forget(key, Because.CHANGED)
            self._queue.add(key)
        elif own:
            self._memories.of(key).recall.version = text(metadata.get("resourceVersion")) or ""

    def _lost_child(self, key: Key, child: tuple[str, str]) -> None:
        """Queue the key if the attempt that goes on has lost a child that it had."""
        children = self._memories.find(key).children
        if children and child in children.names:
            self._memories.forget(key, Because.CHILD_GONE)
            self._queue.add(key, first=True)

    def _saw_pod(self, key: Key, pod: PodView, gone: bool) -> None:
        earlier = self._memories.pod(pod.uid)
        now = self._memories.record(replace(pod, present=not gone), key)
        ends = gone or now.ending != (earlier.ending if earlier else None)
        starts = now.running and not (earlier and earlier.running)
        if ends:
            self._memories.forget(key, Because.CHANGED)
            self._queue.add(key, first=True)
        elif starts and self._is_last_to_start(key, now):
            self._queue.add(key)
        elif now.waiting != (earlier.waiting if earlier else None):
            self._queue.add_after(key, SOON)

    def _is_last_to_start(self, key: Key, pod: PodView) -> bool:
        """Return whether all pods of the pod's Job run now; True if the Job has not been seen yet."""
        owner = pod.owner_uid or ""
        job = self._seen.get(owner)
        return not isinstance(job, JobView) or self._memories.running(owner, key) >= job.parallelism

    def _is_news(self, uid: str, seen: Any, gone: bool) -> bool:
        if gone:
            self._seen.pop(uid, None)
            return True
        before = self._seen.pop(uid, None)
        self._seen[uid] = seen
        if len(self._seen) > CAPACITY:  # some deletions were missed; at worst, a job is reconciled once too often
            del self._seen[next(iter(self._seen))]
        if before is None and isinstance(seen, JobView):  # the operator that created it reconciles it soon anyway
            return bool(seen.failure or seen.succeeded or seen.deleted or seen.suspended)
        return bool(before != seen)


def _of(metadata: Fields) -> tuple[Any, ...]:
    return metadata.get("generation"), metadata.get("deletionTimestamp")
