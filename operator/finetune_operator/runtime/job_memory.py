"""What the operator remembers of each FineTuneJob between its reconciles, and when it forgets it.

All of it can be lost at any time, as it is when the operator starts. This costs a read, a request to the agents or a
reason in the ledger, but never leads to a wrong decision. `Because` names the occasions on which something is
forgotten:

| what is remembered | DELETED | AT_REST | LEAD_LOST | CHANGED | CHILD_GONE | `keep_only` |
|---|---|---|---|---|---|---|
| `pods`: the state of each pod, and how it ended | goes | goes | stays | stays | stays | pods of other Jobs go |
| `followed`: UIDs of Jobs whose attempt was followed by another | goes | goes | stays | stays | stays | stays |
| `recall`: what the last observation has read | goes | stays | goes | goes | goes | stays |
| `children`: which children of the attempt existed, and when | goes | goes | goes | stays | goes | stays |
| `asked`: when the agents were asked | goes | goes | goes | stays | stays | stays |
| `written`: when the status was written | goes | stays | goes | stays | stays | stays |
| `phase`: the phase in which the metrics count the job | goes | stays | goes | stays | stays | stays |

DELETED: an event or a resync has shown that the FineTuneJob no longer exists. AT_REST: no run goes on, so everything
that its attempts left is in the ledger. LEAD_LOST: another operator works on the job, while this one still receives
events about how pods end. CHANGED: something that a report relies on has changed, or could not be read. CHILD_GONE: one
of the `children` was deleted. `keep_only`: the Job of a newer attempt was seen, so the attempts before it are in the
ledger.

A job of which nothing is remembered has no entry. The number of pods is also bounded: the oldest are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from finetune_operator.core.observed.views import PodView
from finetune_operator.core.times import within
from finetune_operator.runtime.look import LASTS, Beginning, Look

CAPACITY = 20_000
"""The largest number of pods that are remembered, of all jobs together."""


class Key(NamedTuple):
    """The namespace and the name of a FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Because(Enum):
    """Why something is forgotten; the value names the fields of a JobMemory that are reset."""

    DELETED = ("pods", "followed", "recall", "children", "asked", "written", "phase")
    AT_REST = ("pods", "followed", "children", "asked")
    LEAD_LOST = ("recall", "children", "asked", "written", "phase")
    CHANGED = ("recall",)
    CHILD_GONE = ("recall", "children")


@dataclass
class Asked:
    """When the agents of a job were last asked: that of rank 0, and the others."""

    first: datetime
    others: datetime


@dataclass(frozen=True)
class Children:
    """The kinds and names of an attempt's children besides its Job."""

    time: datetime | None
    """When all of them were found; None if one of them has to be created again."""
    names: frozenset[tuple[str, str]]


@dataclass
class Recall:
    """The last observation of a job, if it can be used again."""

    began: Beginning | None = None
    look: Look | None = None
    version: str | None = None
    """The resourceVersion of the FineTuneJob, as events last reported it."""


@dataclass
class JobMemory:
    """Everything that is remembered of one FineTuneJob."""

    pods: dict[str, PodView] = field(default_factory=dict)
    """The last view of each pod, by UID, with all facts about its end that were ever seen.

    A pod that was deleted cannot be listed any more.
    """
    followed: set[str] = field(default_factory=set)
    recall: Recall = field(default_factory=Recall)
    children: Children | None = None
    asked: Asked | None = None
    written: datetime | None = None
    phase: str | None = None


class JobMemories:
    """The memories of all jobs of which something is remembered."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._jobs: dict[Key, JobMemory] = {}
        self._job_of: OrderedDict[str, Key] = OrderedDict()
        """The job of each pod by the pod's UID, in the order in which the pods were last seen."""

    @property
    def keys(self) -> frozenset[Key]:
        """The jobs of which something is remembered."""
        return frozenset(self._jobs)

    def find(self, key: Key) -> JobMemory:
        """Return the memory of a job for reading."""
        return self._jobs.get(key) or JobMemory()

    def of(self, key: Key) -> JobMemory:
        """Return the memory of a job for adding to it."""
        return self._jobs.setdefault(key, JobMemory())

    def forget(self, key: Key, because: Because) -> None:
        """Forget what the table lists for that occasion."""
        if memory := self._jobs.get(key):
            if "pods" in because.value:
                for uid in memory.pods:
                    del self._job_of[uid]
            nothing = JobMemory()
            for name in because.value:
                setattr(memory, name, getattr(nothing, name))
            self._drop_if_empty(key)

    def in_phase(self, phase: str) -> int:
        """Return how many of the jobs that were reconciled are in a phase."""
        return sum(memory.phase == phase for memory in self._jobs.values())

    @property
    def seen(self) -> frozenset[Key]:
        """The jobs that this operator has reconciled since it became the leader and that are not known as deleted."""
        return frozenset(key for key, memory in self._jobs.items() if memory.phase is not None)

    # ---- pods -------------------------------------------------------------------------------------------------------

    def pod(self, uid: str) -> PodView | None:
        """Return what was last recorded of a pod."""
        key = self._job_of.get(uid)
        return self._jobs[key].pods[uid] if key else None

    def record(self, pod: PodView, key: Key) -> PodView:
        """Remember a view of a job's pod; return it completed with what is known from earlier views."""
        known = pod.after(self.pod(pod.uid))
        key = self._job_of.setdefault(pod.uid, key)
        self._job_of.move_to_end(pod.uid)
        self.of(key).pods[pod.uid] = known
        while len(self._job_of) > self._capacity:
            self._forget_pod(next(iter(self._job_of)))
        return known

    def merged(self, owner_uid: str, listed: Iterable[PodView], key: Key) -> tuple[PodView, ...]:
        """Return the pods of a job's Job: those that are listed now, and those that no longer exist."""
        present = {pod.uid: self.record(pod, key) for pod in listed if pod.owner_uid == owner_uid}
        return tuple(replace(pod, present=pod.uid in present) for pod in self.told(owner_uid, key))

    def told(self, owner_uid: str, key: Key) -> tuple[PodView, ...]:
        """Return the pods of a job's Job, as far as they are known."""
        known = (pod for pod in self.find(key).pods.values() if pod.owner_uid == owner_uid)
        return tuple(sorted(known, key=lambda pod: (pod.index or 0, pod.name)))

    def running(self, owner_uid: str, key: Key) -> int:
        """Return how many pods of a job's Job run and are not about to end."""
        return sum(pod.running and pod.ending is None for pod in self.told(owner_uid, key))

    def keep_only(self, owner_uid: str, key: Key) -> None:
        """Forget the pods of all Jobs but that of the newest attempt."""
        for pod in tuple(self.find(key).pods.values()):
            if pod.owner_uid != owner_uid:
                self._forget_pod(pod.uid)

    def _forget_pod(self, uid: str) -> None:
        key = self._job_of.pop(uid)
        del self._jobs[key].pods[uid]
        self._drop_if_empty(key)

    def _drop_if_empty(self, key: Key) -> None:
        if self._jobs[key] == JobMemory():
            del self._jobs[key]

    # ---- observations -----------------------------------------------------------------------------------------------

    def begin_look(self, key: Key, now: datetime) -> Beginning:
        """Begin an observation; the previous one is forgotten."""
        self.forget(key, Because.CHANGED)
        began = Beginning(now)
        self.of(key).recall.began = began
        return began

    def keep_look(self, key: Key, look: Look) -> None:
        """Remember an observation, unless something has changed since it began."""
        recall = self.find(key).recall
        if recall.began is look.began:
            recall.look = look

    def last_look(self, key: Key, now: datetime) -> Look | None:
        """Return the last observation if it is still valid.

        It is valid if it is recent and no other writer has changed the job since.
        """
        recall = self.find(key).recall
        if recall.look is None or not within(now - recall.look.began.time, LASTS):
            return None
        version = recall.look.manifest["metadata"].get("resourceVersion")
        return recall.look if recall.version in (None, version) else None
