"""What pods left behind, kept by UID as their events pass: a pod that was deleted cannot be listed any more.

The map is bounded: the oldest go first. Losing one costs a reason in the ledger, never a wrong decision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from finetune_operator.core.observed import PodView

CAPACITY = 20_000


class Evidence:
    """The last view of each pod, with all terminal facts that were ever seen of it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._pods: OrderedDict[str, PodView] = OrderedDict()

    def record(self, pod: PodView) -> PodView:
        """Remember a view; returns it with what is known from earlier."""
        known = pod.after(self._pods.pop(pod.uid, None))
        self._pods[pod.uid] = known
        while len(self._pods) > self._capacity:
            self._pods.popitem(last=False)
        return known

    def merged(self, owner_uid: str, listed: Iterable[PodView]) -> tuple[PodView, ...]:
        """The pods of a Job: those listed now, and those that are gone."""
        present = {pod.uid: self.record(pod) for pod in listed if pod.owner_uid == owner_uid}
        gone = [p for p in self._pods.values() if p.owner_uid == owner_uid and p.uid not in present]
        return tuple(sorted([*present.values(), *gone], key=lambda pod: (pod.index or 0, pod.name)))
