"""Where watched events come in, from kopf or from the in-memory cluster: keep evidence, wake the job's key.

Nothing is decided here: an event only says that something has changed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from finetune_operator import constants
from finetune_operator.core.observed import PodView
from finetune_operator.protocol import PODS, Resource
from finetune_operator.runtime.evidence import Evidence
from finetune_operator.runtime.queue import Queue


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

    def saw(self, resource: Resource, body: dict[str, Any]) -> None:
        """An object was added, changed or deleted."""
        metadata = body["metadata"]
        if resource is PODS:
            self._evidence.record(PodView.of(body))
        own = resource.kind == constants.KIND
        name = metadata["name"] if own else metadata.get("labels", {}).get(constants.LABEL_JOB)
        if name:
            self._queue.add(Key(metadata["namespace"], name))
