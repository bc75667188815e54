"""The client protocol on a real API server, and what the command line needs besides."""

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
"""Objects per page of a list."""
RESTARTS_OF_A_LIST = 3
"""A list whose pages were read too slowly starts again."""
ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)

AgentAccess = Literal["direct", "proxy"]
"""How pods are asked for their status: by their address, or through the API server (for an operator that runs outside
of the cluster; needs the right to pods/proxy)."""


class KubeCluster:
    """`protocol.Cluster` on `kubernetes.aio`, with raw dictionaries."""

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
        """With the given kubeconfig, $KUBECONFIG, the pod's service account, or ~/.kube/config; with `at_once` requests
        at most. Raises ConfigurationError."""
        return cls(await Transport.connect(kubeconfig, context, at_once), agent_access)

    @property
    def namespace(self) -> str:
        """The namespace that the context or the service account names."""
        return self._transport.namespace

    async def close(self) -> None:
        """End all connections."""
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
        """Server-side apply. Raises InvalidError, also for unknown fields, ConflictError when another manager owns a
        field, ForbiddenError, and NotFoundError without the namespace."""
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
        """The lines of a pod's log, with their ends: the last `tail` of those that are there (default: all), and with
        `follow` those that come until the container ends. Raises NotFoundError, and InvalidError while it waits."""
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
            # Items of a list of a built-in kind do not say what they are.
            if not isinstance(page.get("items"), builtins.list):
                raise not_kubernetes(self._transport.host)
            objects += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]
            following = page["metadata"].get("continue", "")
            if not following:
                objects.sort(key=lambda obj: (obj["metadata"]["namespace"], obj["metadata"]["name"]))
                return objects, page["metadata"]["resourceVersion"]


_UNTYPED = "failed to create typed patch object"
"""What the server says, as an internal error, when a field is unknown or of the wrong type in a server-side apply."""
_STRICT: Query = [("fieldValidation", "Strict")]
"""An unknown field is an error, as with kubectl; by default the server would drop it."""


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{resource.group}" if resource.group else "/api"
    within = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{root}/{resource.version}{within}/{resource.plural}" + (f"/{name}" if name is not None else "")


def _path_of_read(resource: Resource, manifest: Object) -> str:
    """The path of an object that was read. Without its version the server would write some kinds unconditionally."""
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
