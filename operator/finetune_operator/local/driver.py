"""What runs the pods of the in-memory cluster: the part that scheduler, kubelet and node have in a real one.

The cluster tells its driver of every pod that comes, is asked to stop, and goes; the driver writes the pods' status and
removes a stopping pod when nothing of it runs any more. All calls are made on the event loop, between awaits, so that a
driver sees the changes in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from finetune_operator.local.clock import Clock
from finetune_operator.protocol import Object, Resource

SECRETS = Resource("", "v1", "secrets", "Secret")
"""Known to the in-memory cluster alone: the operator itself reads none."""


class PodHost(Protocol):
    """The cluster, as its driver sees it. Objects are shared: a driver changes them through `update_pod` only."""

    clock: Clock

    def peek(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object as it is now, or None."""
        ...

    def all_pods(self) -> list[Object]:
        """Every pod of every namespace."""
        ...

    def update_pod(self, pod: Object, change: Callable[[Object], None]) -> Object | None:
        """Apply `change` to the newest state of this very pod; None when it is gone."""
        ...

    def delete_pod(self, pod: Object) -> None:
        """Ask the pod to go, as a user's delete does."""
        ...

    def remove_pod(self, pod: Object) -> None:
        """The pod's object goes, if it is still there."""
        ...


class PodDriver(Protocol):
    """Runs pods."""

    async def start(self, host: PodHost) -> None:
        """Called once, before the first pod."""
        ...

    async def close(self) -> None:
        """End everything that runs."""
        ...

    def pod_added(self, pod: Object) -> None:
        """A pod was created. The pods of one Job come in one go, before anything else happens."""
        ...

    def pod_terminating(self, pod: Object) -> None:
        """A pod that was bound to a node got its deletionTimestamp: stop it and, in the end, remove it."""
        ...

    def pod_removed(self, pod: Object) -> None:
        """A pod's object is gone; what it held can be freed."""
        ...

    async def fetch(self, pod: Object, port: int, path: str, limit: int, timeout: float) -> bytes | None:
        """As `protocol.Cluster.pod_status`."""
        ...
