"""A cluster in memory: `protocol.Cluster` with a Job controller, a garbage collector and a driver for its pods.

`finetune run` runs the operator over this cluster with pods as processes; tests script the pods. The same contract
tests run against it and against a real API server, so that both behave alike. Everything runs on one event loop, and a
write and its immediate effects (versions, watchers' queues) are one step without an await.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from finetune_operator.local import admission, pods
from finetune_operator.local.clock import Clock, SystemClock, timestamp
from finetune_operator.local.driver import PodDriver
from finetune_operator.local.garbage import GarbageCollector
from finetune_operator.local.jobs import JobController
from finetune_operator.local.store import Store, clone
from finetune_operator.protocol import (
    LEASES,
    PODS,
    AlreadyExistsError,
    ConflictError,
    Event,
    InvalidError,
    NotFoundError,
    Object,
    Resource,
)

Admit = Callable[[Resource, Object], Object]
"""A function that returns an object, before it is stored, with the defaults of its schema filled in.

Raises InvalidError or ForbiddenError.
"""

NAME_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""The characters of generated names, as in the API server: without vowels, so that they form no words."""


class LocalCluster:
    """A `protocol.Cluster` in memory, with further methods for its users, controllers and driver."""

    def __init__(
        self,
        driver: PodDriver,
        *,
        clock: Clock | None = None,
        admit: Admit | None = None,
        randomness: random.Random | None = None,
        lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create an empty cluster.

        `lag` returns the number of seconds that a controller waits before it handles its next object.
        """
        self.clock: Clock = clock or SystemClock()
        self._driver = driver
        self._admit = admit
        self._random = randomness or random.Random()
        self._namespaces: set[str] = set()
        self._store = Store()
        self._lag = lag
        self._garbage = GarbageCollector(self._store, self._delete, self._wait)
        self._jobs = JobController(self, self._wait)
        self._store.listen(self._tell_driver)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the driver and the controllers."""
        await self._driver.start(self)
        self._tasks = [asyncio.create_task(self._garbage.run()), asyncio.create_task(self._jobs.run())]

    async def close(self) -> None:
        """Stop the controllers, then end every pod."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._driver.close()

    # ---- the protocol ------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return self._copy(self._existing(resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        found = self._store.list(resource, namespace, labels)
        return [self._copy(obj) for obj in found if _has_fields(obj, fields or {})]

    async def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        async with contextlib.aclosing(self._store.watch(resource, namespace, labels)) as events:
            async for event in events:
                yield Event(event.type, self._copy(event.object))

    async def create(self, resource: Resource, manifest: Object) -> Object:
        return self._copy(self.insert(resource, manifest))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        obj = self._existing(resource, namespace, name)
        found = obj["metadata"]["uid"]
        if uid not in (None, found):
            message = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
            raise _conflict(resource, name, message)
        self._delete(resource, obj)

    async def put(self, resource: Resource, manifest: Object) -> Object:
        current = self._current(resource, manifest)
        new = self._admitted(resource, manifest)
        kept = {k: v for k, v in current["metadata"].items() if k not in ("labels", "annotations", "ownerReferences")}
        given = {k: v for k, v in new["metadata"].items() if k in ("labels", "annotations", "ownerReferences")}
        changed = {**new, "metadata": {**given, **kept}}
        if admission.has_status(resource):
            changed.pop("status", None)
            changed |= {"status": current["status"]} if "status" in current else {}
        if changed.get("spec") != current.get("spec") and "generation" in kept:
            changed["metadata"]["generation"] = kept["generation"] + 1
        return self._copy(self._store.update(resource, changed))

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        if not admission.has_status(resource):
            raise NotFoundError(404, "NotFound", "the server could not find the requested resource")
        current = self._current(resource, manifest)
        changed = {key: value for key, value in current.items() if key != "status"}
        if "status" in manifest:
            changed["status"] = clone(manifest["status"])
        return self._copy(self._store.update(resource, self._admitted(resource, changed)))

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        return await self._driver.fetch(pod, port, path, limit, timeout)

    # ---- for users ---------------------------------------------------------------------------------------------------

    def add_namespace(self, name: str) -> None:
        """Add a namespace, in which objects can then be created."""
        self._namespaces.add(name)

    async def idle(self) -> None:
        """Wait until no pod is left."""
        async with contextlib.aclosing(self._store.watch(PODS, None, None)) as events:
            while self._store.list(PODS, None):
                await anext(events)

    # ---- for the controllers and the driver: synchronous, with shared objects ----------------------------------------

    @property
    def store(self) -> Store:
        """The store, for controllers; its objects are shared and must not be changed."""
        return self._store

    def peek(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self._store.get(resource, namespace, name)

    def all_pods(self) -> builtins.list[Object]:
        return self._store.list(PODS, None)

    def insert(self, resource: Resource, manifest: Object) -> Object:
        """Create an object synchronously.

        Raises AlreadyExistsError, InvalidError, and NotFoundError if the namespace does not exist.
        """
        obj = clone(manifest)
        meta = obj.setdefault("metadata", {})
        namespace = meta.get("namespace")
        if not namespace:
            raise InvalidError(422, "Invalid", f"{resource.kind}: metadata.namespace: Required value")
        if namespace not in self._namespaces:
            raise NotFoundError(404, "NotFound", f'namespaces "{namespace}" not found')
        if "name" not in meta and "generateName" in meta:
            meta["name"] = meta["generateName"] + self.name_suffix()
        if "name" not in meta:
            raise InvalidError(422, "Invalid", f"{resource.kind}: metadata.name: Required value")
        if self._store.get(resource, namespace, meta["name"]):
            raise AlreadyExistsError(409, "AlreadyExists", f'{_full(resource)} "{meta["name"]}" already exists')
        if admission.has_status(resource):
            obj.pop("status", None)
        obj = self._admitted(resource, obj)
        admission.fill_in(resource, obj)
        uid = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        obj["metadata"] |= {"uid": uid, "creationTimestamp": timestamp(self.clock.now())}
        if resource in admission.WITH_GENERATION:
            obj["metadata"]["generation"] = 1
        return self._store.insert(resource, obj)

    def name_suffix(self) -> str:
        """Return five random characters, as in the name of a Job's pod."""
        return "".join(self._random.choices(NAME_SUFFIX_LETTERS, k=5))

    def update(self, resource: Resource, obj: Object) -> Object:
        """Store a new state synchronously, whatever its resourceVersion."""
        return self._store.update(resource, obj)

    def update_pod(self, pod: Object, change: Callable[[Object], None]) -> Object | None:
        current = self._same(pod)
        if current is None:
            return None
        changed: Object = clone(current)
        change(changed)
        return self._store.update(PODS, changed)

    def remove_pod(self, pod: Object) -> None:
        if self._same(pod):
            self._store.remove(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def delete_pod(self, pod: Object) -> None:
        """Request the deletion of a pod synchronously.

        A pod that has no node, or that has ended, is removed immediately.
        """
        if pods.is_terminating(pod):
            return
        holds_nothing = pods.is_finished(pod) or not pod["spec"].get("nodeName")
        grace = 0.0 if holds_nothing else pods.grace_seconds(pod)
        # The API server writes the time at which the grace period ends, not the time of the request.
        gone_at = timestamp(self.clock.now() + grace)
        marks = {"deletionTimestamp": gone_at, "deletionGracePeriodSeconds": int(grace)}
        changed = self.update_pod(pod, lambda current: current["metadata"].update(marks))
        if changed and holds_nothing:
            self.remove_pod(changed)
        elif changed:
            self._driver.pod_terminating(changed)

    async def _wait(self) -> None:
        if seconds := self._lag():
            await self.clock.sleep(seconds)

    def _delete(self, resource: Resource, obj: Object) -> None:
        if resource == PODS:
            self.delete_pod(obj)
        else:
            self._store.remove(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])

    def _tell_driver(self, resource: Resource, event: Event) -> None:
        if resource == PODS and event.type == "ADDED":
            self._driver.pod_added(event.object)
        elif resource == PODS and event.type == "DELETED":
            self._driver.pod_removed(event.object)

    def _admitted(self, resource: Resource, manifest: Object) -> Object:
        obj: Object = clone(manifest)
        admission.check(resource, obj)
        return self._admit(resource, obj) if self._admit else obj

    def _existing(self, resource: Resource, namespace: str, name: str) -> Object:
        obj = self._store.get(resource, namespace, name)
        if obj is None:
            raise NotFoundError(404, "NotFound", f'{_full(resource)} "{name}" not found')
        return obj

    def _current(self, resource: Resource, manifest: Object) -> Object:
        """Return the stored object that a put may replace.

        Raises ConflictError, NotFoundError and InvalidError.
        """
        meta = manifest["metadata"]
        if resource == LEASES and not self._store.get(resource, meta["namespace"], meta["name"]):
            raise _conflict(resource, meta["name"], "Precondition failed: UID in precondition")
        current = self._existing(resource, meta["namespace"], meta["name"])
        version = meta.get("resourceVersion")
        if not version:
            message = f"{_full(resource)} {meta['name']}: metadata.resourceVersion: must be specified for an update"
            raise InvalidError(422, "Invalid", message)
        if version != current["metadata"]["resourceVersion"]:
            message = "the object has been modified; please apply your changes to the latest version and try again"
            raise _conflict(resource, meta["name"], message)
        return current

    def _same(self, pod: Object) -> Object | None:
        current = self._store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        return current if current and current["metadata"]["uid"] == pod["metadata"]["uid"] else None

    @staticmethod
    def _copy(obj: Object) -> Object:
        copy: Object = clone(obj)
        return copy


def _has_fields(obj: Object, fields: Mapping[str, str]) -> bool:
    return all(_at(obj, path) == value for path, value in fields.items())


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for key in path.split("."):
        value = value.get(key, {})
    return value


def _full(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _conflict(resource: Resource, name: str, why: str) -> ConflictError:
    return ConflictError(409, "Conflict", f'Operation cannot be fulfilled on {_full(resource)} "{name}": {why}')
