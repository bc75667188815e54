"""How the operator talks to a cluster: eight verbs on plain dictionaries.

`kube/` implements them on the real API server, `local/` in memory; one contract suite runs against both. Objects are
JSON dictionaries as the API has them. Every error is an `ApiError` with the status code that the API server uses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from finetune_operator import constants

Object = dict[str, Any]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True)
class Resource:
    """A kind of namespaced object."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


FINETUNEJOBS = Resource(constants.GROUP, constants.VERSION, constants.PLURAL, constants.KIND)
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NETWORKPOLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
CORE_EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


class ApiError(Exception):
    """The API server said no, or was not reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(ApiError):
    """404: there is no such object."""


class AlreadyExistsError(ApiError):
    """409 on create: an object of that name exists."""


class ConflictError(ApiError):
    """409 on put: the object has changed since it was read."""


class InvalidError(ApiError):
    """422 or 400: the object breaks the schema or a rule."""


class ForbiddenError(ApiError):
    """403: not allowed, or refused by quota or admission."""


@dataclass(frozen=True)
class Event:
    """A change that a watch saw."""

    type: EventType
    object: Object


class Cluster(Protocol):
    """Eight verbs. Names are of namespaced objects; `labels` selects by equality."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Raises NotFoundError."""
        ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """All objects of a namespace, or of all namespaces when None. The order is by name. `fields` selects by
        equality too, by dotted paths that the kind can be selected by."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        """First an ADDED for each object that exists, then every change; endless."""
        ...

    async def create(self, resource: Resource, manifest: Object) -> Object:
        """Raises AlreadyExistsError, InvalidError, ForbiddenError, and NotFoundError without the namespace."""
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """In the background: children follow by their owner references. With a uid, only that very object
        (ConflictError otherwise). Raises NotFoundError."""
        ...

    async def put(self, resource: Resource, manifest: Object) -> Object:
        """Write all but the status of an object as it was read; ConflictError if it has changed since; for
        a Lease that was deleted, too. Raises NotFoundError, InvalidError and ForbiddenError."""
        ...

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        """Write the status of an object as it was read; ConflictError if it has changed since."""
        ...

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        """GET from a pod, by its IP; None when nothing (or more than `limit` bytes) came within `timeout` seconds.
        Follows no redirect and uses no proxy from the environment."""
        ...
