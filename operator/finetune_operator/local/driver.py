"""The interface of a driver, which runs the pods of the in-memory cluster in place of scheduler, kubelet and node.

The cluster notifies its driver when a pod is created, must stop, and has been removed. The driver writes the status of
the pods, and removes a stopping pod when none of its processes runs any more. All calls are made on the event loop,
between awaits, so that a driver sees the changes in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from finetune_operator.local.clock import Clock
from finetune_operator.protocol import Object, Resource

SECRETS = Resource("", "v1", "secrets", "Secret")
"""The kind Secret, which only the in-memory cluster uses; the operator itself reads no Secrets."""


class PodHost(Protocol):
    """The cluster, as its driver sees it. Objects are shared, so a driver changes them only through `update_pod`."""

    clock: Clock

    def peek(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return the current object, or None if it does not exist."""
        ...

    def all_pods(self) -> list[Object]:
        """Return the pods of all namespaces."""
        ...

    def update_pod(self, pod: Object, change: Callable[[Object], None]) -> Object | None:
        """Apply `change` to the newest state of the pod with this UID and return it, or None if the pod is gone."""
        ...

    def delete_pod(self, pod: Object) -> None:
        """Request the deletion of the pod, as a user does."""
        ...

    def remove_pod(self, pod: Object) -> None:
        """Remove the pod's object, if it still exists."""
        ...


class PodDriver(Protocol):
    """Runs the pods of a cluster."""

    async def start(self, host: PodHost) -> None:
        """Prepare the driver; called once, before the first pod."""
        ...

    async def close(self) -> None:
        """End all pods."""
        ...

    def pod_added(self, pod: Object) -> None:
        """Handle the creation of a pod; the pods of one Job arrive in succession, before any other event."""
        ...

    def pod_terminating(self, pod: Object) -> None:
        """Stop a pod that has a node and whose deletion was requested, and remove it when it has ended."""
        ...

    def pod_removed(self, pod: Object) -> None:
        """Free the resources of a pod whose object was removed."""
        ...

    async def fetch(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        """Request a path from a pod, as `protocol.Cluster.pod_status` describes."""
        ...
