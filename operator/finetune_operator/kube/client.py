"""The implementation of `protocol.Cluster` on a real API server, with additional methods for the command line."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import aiohttp

from finetune_operator.kube import watching
from finetune_operator.kube.errors import ConfigurationError, not_kubernetes
from finetune_operator.kube.pod_http import PodHttp, pod_url
from finetune_operator.kube.transport import AT_ONCE, Query, Transport
from finetune_operator.protocol import PODS, ApiError, Event, InvalidError, Object, Resource

__all__ = ["ConfigurationError", "KubeCluster"]

PAGE = 500
"""The number of objects per page of a list."""
RESTARTS_OF_A_LIST = 3
"""The number of tries to read a list, whose pages expire if they are read too slowly."""
ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)

AgentAccess = Literal["direct", "proxy"]
"""How the operator requests the status of a pod: at the pod's address, or through the API server.

The latter is for an operator outside of the cluster, and requires permission for pods/proxy.
"""


class KubeCluster:
    """A `protocol.Cluster` that uses `kubernetes.aio` with raw dictionaries."""

    def __init__(self, transport: Transport, agent_access: AgentAccess = "direct") -> None:
        self._transport = transport
        self._agent_access = agent_access
        self._pods = PodHttp()

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        agent_access: AgentAccess = "direct",
        at_once: int = AT_ONCE,
    ) -> KubeCluster:
        """Connect with the given kubeconfig, $KUBECONFIG, the pod's service account, or ~/.kube/config.

        At most `at_once` requests run at the same time. Raises ConfigurationError.
        """
        return cls(await Transport.connect(kubeconfig, context, at_once), agent_access)

    @property
    def namespace(self) -> str:
        """The namespace that the context or the service account names."""
        return self._transport.namespace

    async def close(self) -> None:
        """Close all connections."""
        await self._pods.close()
        await self._transport.close()

    # ---- the protocol ------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return await self._transport.request("GET", _path(resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        query = [*_selector(labels), *_selector(fields, "fieldSelector")]
        return (await self._list(resource, namespace, query))[0]

    def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        query = _selector(labels)
        path = _path(resource, namespace)
        return watching.watch(self._transport, path, query, lambda: self._list(resource, namespace, query))

    async def create(self, resource: Resource, manifest: Object) -> Object:
        path = _path(resource, _namespace(manifest))
        return await self._transport.request("POST", path, _STRICT, manifest)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        await self._transport.request("DELETE", _path(resource, namespace, name), body=options)

    async def put(self, resource: Resource, manifest: Object) -> Object:
        return await self._transport.request("PUT", _path_of_read(resource, manifest), _STRICT, manifest)

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        return await self._transport.request("PUT", _path_of_read(resource, manifest) + "/status", body=manifest)

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        if self._agent_access == "direct":
            url = pod_url(pod, port, path)
            return await self._pods.get(url, limit, timeout) if url else None
        meta = pod["metadata"]
        proxy = _path(PODS, meta["namespace"], f"{meta['name']}:{port}") + f"/proxy{path}"
        url, options = await self._transport.target(proxy)
        return await self._pods.get(url, limit, timeout, **options)

    # ---- for the command line ----------------------------------------------------------------------------------------

    async def apply(self, resource: Resource, manifest: Object, field_manager: str) -> Object:
        """Apply an object server-side and return it as stored.

        Raises InvalidError (also for unknown fields), ConflictError if another manager owns a field, ForbiddenError,
        and NotFoundError if the namespace does not exist.
        """
        path = _path(resource, _namespace(manifest), manifest["metadata"]["name"])
        query = [*_STRICT, ("fieldManager", field_manager)]
        try:
            return await self._transport.request("PATCH", path, query, manifest, "application/apply-patch+yaml")
        except ApiError as error:
            if _UNTYPED not in error.message:
                raise
            raise InvalidError(422, "Invalid", error.message) from None

    async def read_log(
        self, namespace: str, pod: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[str]:
        """Yield the lines of a pod's log, with their line ends.

        These are the last `tail` existing lines (by default all) and, with `follow`, the new lines until the container
        ends. Raises NotFoundError, and InvalidError while the container waits to start.
        """
        query = [("follow", "true" if follow else "false")]
        query += [("tailLines", str(tail))] if tail is not None else []
        async with self._transport.lines(_path(PODS, namespace, pod) + "/log", query, ENDLESS) as lines:
            async for line in lines:
                yield line.decode(errors="replace")

    # ---- inside ------------------------------------------------------------------------------------------------------

    async def _list(self, resource: Resource, namespace: str | None, query: Query) -> tuple[builtins.list[Object], str]:
        for _ in range(RESTARTS_OF_A_LIST):
            try:
                return await self._pages(resource, namespace, query)
            except ApiError as error:
                if error.status != watching.GONE:
                    raise
        raise ApiError(watching.GONE, "Expired", f"the list of {resource.plural} expired while it was read")

    async def _pages(
        self, resource: Resource, namespace: str | None, query: Query
    ) -> tuple[builtins.list[Object], str]:
        objects: list[Object] = []
        following = ""
        while True:
            page_query = [*query, ("limit", str(PAGE)), *([("continue", following)] if following else [])]
            page = await self._transport.request("GET", _path(resource, namespace), page_query)
            # The items in a list of a built-in kind have no apiVersion and kind.
            if not isinstance(page.get("items"), builtins.list):
                raise not_kubernetes(self._transport.host)
            objects += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
            following = page["metadata"].get("continue", "")
            if not following:
                objects.sort(key=lambda obj: (obj["metadata"]["namespace"], obj["metadata"]["name"]))
                return objects, page["metadata"]["resourceVersion"]


_UNTYPED = "failed to create typed patch object"
"""The text of the internal error that a server-side apply returns if a field is unknown or has the wrong type."""
_STRICT: Query = [("fieldValidation", "Strict")]
"""The query that makes an unknown field an error, as kubectl does; by default the server would drop the field."""


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{resource.group}" if resource.group else "/api"
    within = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{root}/{resource.version}{within}/{resource.plural}" + (f"/{name}" if name is not None else "")


def _path_of_read(resource: Resource, manifest: Object) -> str:
    """Return the path of an object that was read.

    Raises InvalidError if the object has no resourceVersion, because the server would then write some kinds
    unconditionally.
    """
    meta = manifest["metadata"]
    if not meta.get("resourceVersion"):
        message = f"{resource.kind} {meta['name']}: metadata.resourceVersion: must be specified for an update"
        raise InvalidError(422, "Invalid", message)
    return _path(resource, _namespace(manifest), meta["name"])


def _selector(wanted: Mapping[str, str] | None, kind: str = "labelSelector") -> Query:
    return [(kind, ",".join(f"{key}={value}" for key, value in wanted.items()))] if wanted else []


def _namespace(manifest: Object) -> str:
    namespace = manifest["metadata"].get("namespace")
    if not namespace:
        raise InvalidError(422, "Invalid", f"{manifest.get('kind')}: metadata.namespace: Required value")
    return str(namespace)
