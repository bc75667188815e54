"""What the operator remembers of each FineTuneJob between its reconciles, and when it forgets it.

All of it can be lost at any time, as it is when the operator starts: that costs a read, a question to the agents or a
reason in the ledger, never a wrong decision. `Because` names the occasions on which something is forgotten:

| what is remembered | DELETED | AT_REST | LEAD_LOST | CHANGED | CHILD_GONE | `keep_only` |
|---|---|---|---|---|---|---|
| `pods`: how each pod is, and how it ended | goes | goes | stays | stays | stays | pods of other Jobs go |
| `followed`: UIDs of Jobs whose attempt another one has followed | goes | goes | stays | stays | stays | stays |
| `recall`: what the last look has read | goes | stays | goes | goes | goes | stays |
| `children`: which children of the attempt were there, and when | goes | goes | goes | stays | goes | stays |
| `asked`: when the agents were asked | goes | goes | goes | stays | stays | stays |
| `written`: when the status was written | goes | stays | goes | stays | stays | stays |
| `phase`: which phase the metrics count it in | goes | stays | goes | stays | stays | stays |

DELETED: the FineTuneJob is gone, by an event or by a look at all jobs. AT_REST: no run goes on, so all that its
attempts left is in the ledger. LEAD_LOST: another operator works on the job, while this one goes on being told how pods
end. CHANGED: something that a report relies on is not as it was, or could not be read. `keep_only`: the Job of a newer
attempt was seen, so the attempts before it are in the ledger. CHILD_GONE: one of the `children` was deleted.

A job of which nothing is left has no entry. The number of pods is bounded besides: the oldest go first.
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
"""Pods that are remembered at most, of all jobs together."""


class Key(NamedTuple):
    """A FineTuneJob, by name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Because(Enum):
    """Why something is forgotten; the value names the fields of a JobMemory that go."""

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
    """The children of an attempt besides its Job, by kind and name, all of which were there at that time."""

    time: datetime
    names: frozenset[tuple[str, str]]


@dataclass
class Recall:
    """The last look at a job, if it can be recalled."""

    began: Beginning | None = None
    look: Look | None = None
    version: str | None = None
    """The resourceVersion of the FineTuneJob, as events told it last."""


@dataclass
class JobMemory:
    """All that is remembered of one FineTuneJob."""

    pods: dict[str, PodView] = field(default_factory=dict)
    """By UID the last view of each pod, with all terminal facts that were ever seen of it: a pod that was deleted
    cannot be listed any more."""
    followed: set[str] = field(default_factory=set)
    recall: Recall = field(default_factory=Recall)
    children: Children | None = None
    asked: Asked | None = None
    written: datetime | None = None
    phase: str | None = None


class JobMemories:
    """The memory of every job that there is anything to remember of."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._jobs: dict[Key, JobMemory] = {}
        self._job_of: OrderedDict[str, Key] = OrderedDict()
        """The job of each pod by the pod's UID, in the order in which the pods were seen last."""

    @property
    def keys(self) -> frozenset[Key]:
        """The jobs of which something is remembered."""
        return frozenset(self._jobs)

    def find(self, key: Key) -> JobMemory:
        """What is remembered of a job, to read it."""
        return self._jobs.get(key) or JobMemory()

    def of(self, key: Key) -> JobMemory:
        """What is remembered of a job, to add to it."""
        return self._jobs.setdefault(key, JobMemory())

    def forget(self, key: Key, because: Because) -> None:
        """Forget of a job what the table says."""
        if memory := self._jobs.get(key):
            if "pods" in because.value:
                for uid in memory.pods:
                    del self._job_of[uid]
            nothing = JobMemory()
            for name in because.value:
                setattr(memory, name, getattr(nothing, name))
            self._drop_if_empty(key)

    def in_phase(self, phase: str) -> int:
        """How many jobs are in a phase, as far as they were seen."""
        return sum(memory.phase == phase for memory in self._jobs.values())

    @property
    def seen(self) -> frozenset[Key]:
        """The jobs that this operator has looked at since it leads, and that are not known to be gone."""
        return frozenset(key for key, memory in self._jobs.items() if memory.phase is not None)

    # ---- pods -------------------------------------------------------------------------------------------------------

    def pod(self, uid: str) -> PodView | None:
        """What was recorded of a pod last."""
        key = self._job_of.get(uid)
        return self._jobs[key].pods[uid] if key else None

    def record(self, pod: PodView, key: Key) -> PodView:
        """Remember a view of a job's pod. Returns it with what is known from earlier."""
        known = pod.after(self.pod(pod.uid))
        key = self._job_of.setdefault(pod.uid, key)
        self._job_of.move_to_end(pod.uid)
        self.of(key).pods[pod.uid] = known
        while len(self._job_of) > self._capacity:
            self._forget_pod(next(iter(self._job_of)))
        return known

    def merged(self, owner_uid: str, listed: Iterable[PodView], key: Key) -> tuple[PodView, ...]:
        """The pods of a job's Job: those that are listed now, and those that are gone."""
        present = {pod.uid: self.record(pod, key) for pod in listed if pod.owner_uid == owner_uid}
        return tuple(replace(pod, present=pod.uid in present) for pod in self.told(owner_uid, key))

    def told(self, owner_uid: str, key: Key) -> tuple[PodView, ...]:
        """The pods of a job's Job, as far as they are known."""
        known = (pod for pod in self.find(key).pods.values() if pod.owner_uid == owner_uid)
        return tuple(sorted(known, key=lambda pod: (pod.index or 0, pod.name)))

    def running(self, owner_uid: str, key: Key) -> int:
        """How many pods of a job's Job run, and are not about to end."""
        return sum(pod.running and pod.ending is None for pod in self.told(owner_uid, key))

    def keep_only(self, owner_uid: str, key: Key) -> None:
        """Forget the pods of all Jobs but one, which is that of the newest attempt."""
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

    # ---- looks ------------------------------------------------------------------------------------------------------

    def begin_look(self, key: Key, now: datetime) -> Beginning:
        """A look begins; the one before is forgotten."""
        self.forget(key, Because.CHANGED)
        began = Beginning(now)
        self.of(key).recall.began = began
        return began

    def keep_look(self, key: Key, look: Look) -> None:
        """Remember a look, unless something has changed since it began."""
        recall = self.find(key).recall
        if recall.began is look.began:
            recall.look = look

    def last_look(self, key: Key, now: datetime) -> Look | None:
        """The last look, if it still holds: it is recent, and nobody else has written the job since."""
        recall = self.find(key).recall
        if recall.look is None or not within(now - recall.look.began.time, LASTS):
            return None
        version = recall.look.manifest["metadata"].get("resourceVersion")
        return recall.look if recall.version in (None, version) else None
