"""The faulty connection between one operator and the API server.

Answers are late, missing or errors. For a time, no objects of a kind can be created. The operator may be killed at any
call: before it, or after it took effect and before the answer arrived.
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
"""The most seconds that a slow call takes."""
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
"""Seconds for which no object of a kind can be created."""


class Connection:
    """A `protocol.Cluster` for one operator, until it is killed."""

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
        """Create the connection.

        `died` is called when the operator is killed, and `deleting` before it deletes anything.
        """
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
        """The resources of which no object can be created: until when, and the error."""

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

    # ---- faults ------------------------------------------------------------------------------------------------------

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
        # A message for users may be lost: no decision depends on it, and its loss is expected in every weather.
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
        """Raise while no object of this resource can be created; this never happens in good weather."""
        now, weather = asyncio.get_running_loop().time(), self._weather()
        if self._chance.random() < weather.denials:
            self._denied[resource] = (now + self._chance.choice(DENIED), self._chance.choice(DENIALS))
        until, error = self._denied.get(resource, (0.0, None))
        if error and weather.denials and now < until:
            raise type(error)(error.status, error.reason, error.message)

    async def _answer(self) -> None:
        """Wait for the latency of an answer; a killed operator waits forever."""
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
