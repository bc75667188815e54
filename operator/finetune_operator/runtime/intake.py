"""Where watched events come in, from kopf or from the in-memory cluster: remember pods, wake the job's key.

Nothing is decided here: an event only says that something has changed. What ends or asks for an attempt wakes the key
at once, and so does the last pod of a gang that starts. What changes nothing that cannot wait for the next look (the
pods that start before it, a pod's node, the operator's own status, a Job that was made, the end of pods that another
attempt has replaced, other children as long as they are there) wakes nobody. A job that has lost a pod, and holds nodes
for nothing, or another child that its pods need, goes before those that wait.
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
"""Seconds in which the pods of a gang mostly are told to wait."""


WATCHED = (FINETUNEJOBS, JOBS, PODS, CONFIGMAPS, SERVICES)


class Intake:
    """One method, called for every event of FineTuneJobs and of their children."""

    def __init__(self, queue: Queue[Key], memories: JobMemories, policies: bool = True) -> None:
        """`policies` tells whether NetworkPolicies are made: elsewhere the operator may not even watch them."""
        self.watched: tuple[Resource, ...] = (*WATCHED, NETWORKPOLICIES) if policies else WATCHED
        """The kinds whose events are to be brought here."""
        self._queue = queue
        self._memories = memories
        self._seen: dict[str, Any] = {}
        """By UID: what of a FineTuneJob or a Job is decided on, as it was told last."""

    def saw(self, resource: Resource, body: dict[str, Any], gone: bool = False) -> None:
        """An object was added, changed or, if it is `gone`, deleted."""
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
        """Wake the key if the attempt that goes on has lost a child that it had."""
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
        """Of its Job's pods; True if the Job has not been seen yet."""
        owner = pod.owner_uid or ""
        job = self._seen.get(owner)
        return not isinstance(job, JobView) or self._memories.running(owner, key) >= job.parallelism

    def _is_news(self, uid: str, seen: Any, gone: bool) -> bool:
        if gone:
            self._seen.pop(uid, None)
            return True
        before = self._seen.pop(uid, None)
        self._seen[uid] = seen
        if len(self._seen) > CAPACITY:  # of those whose deletion was missed; a key is woken once too often at worst
            del self._seen[next(iter(self._seen))]
        if before is None and isinstance(seen, JobView):  # which is looked at in a while, by whoever made it
            return bool(seen.failure or seen.succeeded or seen.deleted or seen.suspended)
        return bool(before != seen)


def _of(metadata: Fields) -> tuple[Any, ...]:
    return metadata.get("generation"), metadata.get("deletionTimestamp")
