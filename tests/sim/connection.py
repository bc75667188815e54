"""The API server as one operator meets it: answers come late, or not, or are refusals, objects of a kind cannot be made
for a time, and the operator may die at any call: before it, or after it took effect and before anybody was told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from sim.weather import Trace, Weather

from finetune_operator.local.cluster import LocalCluster
from finetune_operator.protocol import (
    EVENTS,
    FINETUNEJOBS,
    ApiError,
    ConflictError,
    Event,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    Resource,
)

T = TypeVar("T")

TIMEOUT = 10.0
LATENCY = 0.02
SLOW = 5.0
"""Seconds, at most."""
REFUSALS = (
    ApiError(429, "TooManyRequests", "the server has received too many requests"),
    ApiError(500, "InternalError", "etcdserver: request timed out"),
    ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
)
DENIALS = (
    ForbiddenError(403, "Forbidden", "exceeded quota: team, requested: count=1, used: count=9, limited: count=9"),
    InvalidError(422, "Invalid", "admission webhook denied the request: no owner"),
)
DENIED = (5.0, 70.0, 300.0)
"""Seconds."""


class Connection:
    """A `protocol.Cluster` for one life of an operator."""

    def __init__(
        self,
        name: str,
        cluster: LocalCluster,
        chance: random.Random,
        weather: Callable[[], Weather],
        trace: Trace,
        died: Callable[[], None],
        deleting: Callable[[Resource, str, str], None],
    ) -> None:
        """`died` is called when the operator's time has come; `deleting` before it deletes anything."""
        self.name = name
        self.dead = False
        self.writes = 0
        self._cluster = cluster
        self._chance = chance
        self._weather = weather
        self._trace = trace
        self._died = died
        self._deleting = deleting
        self._denied: dict[Resource, tuple[float, ApiError]] = {}
        """What cannot be made, until when, and why."""

    # ---- the protocol ------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return await self._read(lambda: self._cluster.get(resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        return await self._read(lambda: self._cluster.list(resource, namespace, labels, fields))

    def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        raise NotImplementedError("the operator is informed by sim.informer")

    async def create(self, resource: Resource, manifest: Object) -> Object:
        what = f"create {resource.kind} {manifest['metadata'].get('name')}"

        async def act() -> Object:
            self._admit(resource)
            return await self._cluster.create(resource, manifest)

        return await self._write(what, resource, act)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        async def act() -> None:
            self._deleting(resource, namespace, name)
            await self._cluster.delete(resource, namespace, name, uid)

        await self._write(f"delete {resource.kind} {name}", resource, act)

    async def put(self, resource: Resource, manifest: Object) -> Object:
        what = f"put {resource.kind} {manifest['metadata']['name']}"
        return await self._write(what, resource, lambda: self._cluster.put(resource, manifest))

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        what = f"put status of {manifest['metadata']['name']}"
        return await self._write(what, resource, lambda: self._cluster.put_status(resource, manifest))

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        await self._answer()
        return await self._cluster.pod_status(pod, port, path, limit, timeout)

    # ---- what goes wrong ---------------------------------------------------------------------------------------------

    async def _read(self, act: Callable[[], Awaitable[T]]) -> T:
        await self._answer()
        weather = self._weather()
        await self._may_die(weather, 0.3, "before a read")
        if self._chance.random() < weather.refusals:
            await self._refuse("a read")
        return await act()

    async def _write(self, what: str, resource: Resource, act: Callable[[], Awaitable[T]]) -> T:
        await self._answer()
        weather = self._weather()
        # What is told to people may be lost: it decides nothing, and its loss is expected in every weather.
        await self._may_die(weather, 1.0, f"before {what}")
        if self._chance.random() < weather.refusals:
            if what.startswith("put") and self._chance.random() < 0.3:
                self._trace.say("{}: {}: conflict, for no reason", self.name, what)
                raise ConflictError(409, "Conflict", "the object has been modified")
            if self._chance.random() < 0.5:
                await self._refuse(what)
            await act()
            self._trace.say("{}: {}: done, but no answer came", self.name, what)
            await asyncio.sleep(TIMEOUT)
            raise ApiError(0, "Timeout", "no answer in time")
        try:
            done = await act()
        except NotFoundError:
            raise
        except ApiError as error:
            self._trace.say("{}: {}: {}", self.name, what, error)
            raise
        self.writes += resource != EVENTS
        if resource not in (EVENTS, FINETUNEJOBS):
            self._trace.say("{}: {}", self.name, what)
        await self._may_die(weather, 1.0, f"after {what}")
        await self._answer()
        return done

    def _admit(self, resource: Resource) -> None:
        """Raises while nothing of this kind can be made; never in good weather."""
        now, weather = asyncio.get_running_loop().time(), self._weather()
        if self._chance.random() < weather.denials:
            self._denied[resource] = (now + self._chance.choice(DENIED), self._chance.choice(DENIALS))
        until, error = self._denied.get(resource, (0.0, None))
        if error and weather.denials and now < until:
            raise type(error)(error.status, error.reason, error.message)

    async def _answer(self) -> None:
        """After a moment; a dead operator hears nothing any more."""
        slow = self._chance.random() < self._weather().slow
        await asyncio.sleep((SLOW if slow else LATENCY) * self._chance.random())
        if self.dead:
            await self._silence()

    async def _may_die(self, weather: Weather, share: float, when: str) -> None:
        if self._chance.random() < weather.deaths * share:
            self._trace.say("{} is killed {}", self.name, when)
            self.dead = True
            self._died()
            await self._silence()

    async def _refuse(self, what: str) -> None:
        if self._chance.random() < 0.4:
            self._trace.say("{}: {}: no answer", self.name, what)
            await asyncio.sleep(TIMEOUT)
            raise ApiError(0, "Timeout", "no answer in time")
        error = self._chance.choice(REFUSALS)
        self._trace.say("{}: {}: {}", self.name, what, error.status)
        raise ApiError(error.status, error.reason, error.message)

    @staticmethod
    async def _silence() -> None:
        await asyncio.get_running_loop().create_future()
