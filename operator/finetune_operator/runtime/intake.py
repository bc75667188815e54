"""Where watched events come in, from kopf or from the in-memory cluster: keep evidence, wake the job's key.

Nothing is decided here: an event only says that something has changed. What ends or asks for an attempt wakes the key
at once; pods start one after the other, and are looked at together a moment later. What changes nothing that cannot
wait for the next look (a pod's node, the operator's own status, a Job's count of ready pods) wakes nobody.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from finetune_operator import constants
from finetune_operator.core.foreign import Fields, fields, text
from finetune_operator.core.observed import JobView, PodView
from finetune_operator.protocol import JOBS, PODS, Resource
from finetune_operator.runtime.evidence import CAPACITY, Evidence
from finetune_operator.runtime.queue import Queue

SOON = 0.5
"""Seconds in which the pods of a gang usually start."""


class Key(NamedTuple):
    """A FineTuneJob, by name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Intake:
    """One method, called for every event of FineTuneJobs and of their Jobs and Pods."""

    def __init__(self, queue: Queue[Key], evidence: Evidence) -> None:
        self._queue = queue
        self._evidence = evidence
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
        if resource is PODS:
            self._saw_pod(key, PodView.of(body), gone)
        elif self._is_news(uid, JobView.of(body) if resource is JOBS else _of(metadata), gone):
            self._queue.add(key)

    def _saw_pod(self, key: Key, pod: PodView, gone: bool) -> None:
        earlier = self._evidence.known(pod.uid)
        now = self._evidence.record(pod, key)
        if gone or now.ending != (earlier.ending if earlier else None):
            self._queue.add(key)
        elif (now.running, now.waiting) != ((earlier.running, earlier.waiting) if earlier else (False, None)):
            self._queue.add_after(key, SOON)

    def _is_news(self, uid: str, seen: Any, gone: bool) -> bool:
        if gone:
            self._seen.pop(uid, None)
            return True
        news = bool(self._seen.pop(uid, None) != seen)
        self._seen[uid] = seen
        if len(self._seen) > CAPACITY:  # of those whose deletion was missed; a key is woken once too often at worst
            del self._seen[next(iter(self._seen))]
        return news


def _of(metadata: Fields) -> tuple[Any, ...]:
    return metadata.get("generation"), metadata.get("deletionTimestamp")
