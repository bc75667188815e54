"""The interface between the operator and a cluster: eight methods on plain dictionaries.

`kube/` implements it on a real API server, `local/` in memory; the same contract tests run against both. Objects are
JSON dictionaries in the API's own form. Every error is an `ApiError` with the status code that the API server uses.
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
    """A kind of namespaced objects."""

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
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(ApiError):
    """Status 404: the object does not exist."""


class AlreadyExistsError(ApiError):
    """Status 409 on create: an object of that name already exists."""


class ConflictError(ApiError):
    """Status 409 on put: the object has changed since it was read."""


class InvalidError(ApiError):
    """Status 422 or 400: the object violates the schema or a validation rule."""


class ForbiddenError(ApiError):
    """Status 403: the request is not permitted, or a quota or an admission controller rejected it."""


@dataclass(frozen=True)
class Event:
    """A change to an object, as a watch reports it."""

    type: EventType
    object: Object


class Cluster(Protocol):
    """A cluster with its namespaced objects. The argument `labels` selects objects whose labels have equal values."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object.

        Raises NotFoundError.
        """
        ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """Return the objects of a namespace, or of all namespaces if it is None, sorted by namespace and name.

        `fields` maps field selectors that the API supports for the kind (dotted paths) to the values they must equal.
        """
        ...

    def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        """Yield an ADDED event for each existing object, then an event for every change, until cancelled."""
        ...

    async def create(self, resource: Resource, manifest: Object) -> Object:
        """Create an object and return it as stored.

        Raises AlreadyExistsError, InvalidError, ForbiddenError, and NotFoundError if the namespace does not exist.
        """
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object; the garbage collector then deletes its children in the background.

        Raises NotFoundError, and ConflictError if `uid` is given and the object has another UID.
        """
        ...

    async def put(self, resource: Resource, manifest: Object) -> Object:
        """Replace an object that was read before, except for its status, and return it as stored.

        Raises ConflictError if the object has changed since it was read or is a Lease that has been deleted. Also
        raises NotFoundError, InvalidError and ForbiddenError.
        """
        ...

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        """Replace the status of an object that was read before, and return the object as stored.

        Raises ConflictError if the object has changed since it was read.
        """
        ...

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        """Send a GET request to a pod, at its IP address or through the API server, and return the response's body.

        Return None if the pod has no usable address, or if no successful response of at most `limit` bytes arrives
        within `timeout` seconds. The request follows no redirect. Sent to the pod's address, it uses no proxy.
        """
        ...
