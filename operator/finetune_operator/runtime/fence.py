"""Guards the cluster, so that this process writes only while it is the leader.

A process that has lost the lease stops at once. The fence is for a process that could not notice the loss because its
event loop was blocked: no write begins after its time is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from finetune_operator.protocol import ApiError, Cluster, Event, Object, Resource


class Fence:
    """A `protocol.Cluster` whose writes raise ApiError unless `may_act` returns True."""

    def __init__(self, cluster: Cluster, may_act: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._may_act = may_act

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return await self._cluster.get(resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        return await self._cluster.list(resource, namespace, labels, fields)

    def watch(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Event]:
        return self._cluster.watch(resource, namespace, labels)

    async def create(self, resource: Resource, manifest: Object) -> Object:
        self._check()
        return await self._cluster.create(resource, manifest)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str | None = None) -> None:
        self._check()
        await self._cluster.delete(resource, namespace, name, uid)

    async def put(self, resource: Resource, manifest: Object) -> Object:
        self._check()
        return await self._cluster.put(resource, manifest)

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        self._check()
        return await self._cluster.put_status(resource, manifest)

    async def pod_status(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        return await self._cluster.pod_status(pod, port, path, limit, timeout)

    def _check(self) -> None:
        if not self._may_act():
            raise ApiError(0, "NotLeading", "this operator leads no more")
