"""What pods left behind, kept by UID as their events pass: a pod that was deleted cannot be listed any more.

What an attempt left is kept until the attempt's end is in the ledger, or its FineTuneJob is gone. Besides, the map is
bounded: the oldest go first. Losing one costs a reason in the ledger, never a wrong decision.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

from finetune_operator.core.observed.views import PodView

CAPACITY = 20_000


class Evidence:
    """The last view of each pod, with all terminal facts that were ever seen of it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._pods: OrderedDict[str, PodView] = OrderedDict()
        self._job_of: dict[str, Hashable] = {}
        self._uids_of: defaultdict[Hashable, set[str]] = defaultdict(set)
        self._outdated: defaultdict[Hashable, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def jobs(self) -> frozenset[Any]:
        """The FineTuneJobs of which there is any."""
        return frozenset(self._uids_of)

    def known(self, uid: str) -> PodView | None:
        """What was recorded of a pod last."""
        return self._pods.get(uid)

    def record(self, pod: PodView, job: Hashable = None) -> PodView:
        """Remember a view of a FineTuneJob's pod; returns it with what is known from earlier."""
        known = pod.after(self._pods.pop(pod.uid, None))
        self._pods[pod.uid] = known
        self._uids_of[self._job_of.setdefault(pod.uid, job)].add(pod.uid)
        while len(self._pods) > self._capacity:
            self._remove(next(iter(self._pods)))
        return known

    def merged(self, owner_uid: str, listed: Iterable[PodView], job: Hashable = None) -> tuple[PodView, ...]:
        """The pods of a FineTuneJob's Job: those listed now, and those that are gone."""
        present = {pod.uid: self.record(pod, job) for pod in listed if pod.owner_uid == owner_uid}
        return tuple(replace(pod, present=pod.uid in present) for pod in self.told(owner_uid, job))

    def told(self, owner_uid: str, job: Hashable = None) -> tuple[PodView, ...]:
        """The pods of a FineTuneJob's Job, as far as they are known."""
        recorded = (self._pods[uid] for uid in self._uids_of.get(job, ()))
        known = (pod for pod in recorded if pod.owner_uid == owner_uid)
        return tuple(sorted(known, key=lambda pod: (pod.index or 0, pod.name)))

    def running(self, owner_uid: str, job: Hashable) -> int:
        """How many pods of a FineTuneJob's Job run, and are not about to end."""
        return sum(pod.running and pod.ending is None for pod in self.told(owner_uid, job))

    def outdate(self, owner_uid: str, job: Hashable) -> None:
        """Another attempt of a FineTuneJob has followed that of a Job: how its pods end is of no interest any more."""
        self._outdated[job].add(owner_uid)

    def is_outdated(self, owner_uid: str | None, job: Hashable) -> bool:
        """Whether that was told of a Job."""
        return owner_uid in self._outdated.get(job, ())

    def forget(self, job: Hashable, but: str | None = None) -> None:
        """What a FineTuneJob's pods have left, but those of the Job with that UID; without it, all that is known."""
        if but is None:
            self._outdated.pop(job, None)
        for uid in tuple(self._uids_of.get(job, ())):
            if but is None or self._pods[uid].owner_uid != but:
                self._remove(uid)

    def _remove(self, uid: str) -> None:
        del self._pods[uid]
        job = self._job_of.pop(uid)
        self._uids_of[job].discard(uid)
        if not self._uids_of[job]:
            del self._uids_of[job]
