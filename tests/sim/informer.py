"""The operator's watches: events are late, repeated, reordered or lost, and a watch may have gaps.

Every resource has its own stream, as with kopf. After a gap all existing objects are reported again; deletions during
the gap are never reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from sim.weather import Weather

from finetune_operator.local.store import Store
from finetune_operator.protocol import NETWORKPOLICIES, Event, Resource
from finetune_operator.runtime import intake
from finetune_operator.runtime.intake import Intake

WATCHED = (*intake.WATCHED, NETWORKPOLICIES)
USUAL = 0.1
"""The most seconds from a write to its event."""
LATE = 20.0


class Informer:
    """Delivers the store's events to the intake of one operator."""

    def __init__(self, store: Store, chance: random.Random, weather: Callable[[], Weather]) -> None:
        self._store = store
        self._chance = chance
        self._weather = weather
        self._gaps: set[Resource] = set()
        self._told: dict[Resource, float] = {}
        self._intake: Intake | None = None

    async def inform(self, intake: Intake) -> None:
        """Run until cancelled, as `runtime.watch.inform` does for the in-memory cluster."""
        self._intake = intake
        self._store.listen(self._see)
        for resource in WATCHED:
            self._relist(resource)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._intake = None

    def gap(self, resource: Resource, seconds: float) -> None:
        """Report no events of the resource for this time, then all its existing objects."""
        self._gaps.add(resource)
        asyncio.get_running_loop().call_later(seconds, self._reconnect, resource)

    def _reconnect(self, resource: Resource) -> None:
        self._gaps.discard(resource)
        self._relist(resource)

    def _relist(self, resource: Resource) -> None:
        for obj in self._store.list(resource, None):
            self._tell(resource, Event("ADDED", obj))

    def _see(self, resource: Resource, event: Event) -> None:
        if self._intake is None or resource not in WATCHED or resource in self._gaps:
            return
        weather = self._weather()
        luck = self._chance.random() if weather.lost or weather.late else 1.0
        if luck < weather.lost:
            return
        if luck < weather.lost + weather.late:
            asyncio.get_running_loop().call_later(LATE * self._chance.random(), self._deliver, resource, event)
            return
        self._tell(resource, event)
        if self._chance.random() < weather.doubled:
            self._tell(resource, event)

    def _tell(self, resource: Resource, event: Event) -> None:
        """Deliver the event soon, after the earlier events of this resource."""
        loop = asyncio.get_running_loop()
        at = max(self._told.get(resource, 0.0), loop.time() + USUAL * self._chance.random())
        self._told[resource] = at
        loop.call_at(at, self._deliver, resource, event)

    def _deliver(self, resource: Resource, event: Event) -> None:
        if self._intake:
            self._intake.saw(resource, event.object, event.type == "DELETED")
