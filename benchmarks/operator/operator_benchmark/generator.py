"""The load generator: a client of the API server with its own name, which sends concurrent requests.

It takes times from watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from finetune_operator.kube.client import KubeCluster
from finetune_operator.kube.transport import Transport
from finetune_operator.protocol import (
    CLAIMS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    SERVICES,
    ApiError,
    ConflictError,
    NotFoundError,
    Object,
    Resource,
)
from operator_benchmark import objects
from operator_benchmark.sightings import Sightings

USER_AGENT = "finetune-benchmark"
AT_ONCE = 32
"""The number of concurrent requests."""
PATIENCE = 300.0
"""Seconds after which any wait fails."""
KINDS = {resource.kind: resource for resource in (FINETUNEJOBS, JOBS, SERVICES)}
"""The kinds of objects that make up the load."""
GRACE = ("gracePeriodSeconds", "0")

T = TypeVar("T")


class Generator:
    """Creates load in its own namespace, and removes it."""

    def __init__(self, transport: Transport) -> None:
        transport._api.user_agent = USER_AGENT  # by which the audit log distinguishes clients
        self._transport = transport
        self.cluster = KubeCluster(transport)
        self.namespace = f"benchmark-{uuid.uuid4().hex[:8]}"
        self.seen = Sightings(objects.PODS)

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls) -> AsyncIterator[Generator]:
        """Connect with $KUBECONFIG.

        The generator creates the namespace with its storage, watches it, and deletes it at the end.
        """
        generator = cls(await Transport.connect())
        try:
            await generator._make_namespace()
            async with asyncio.TaskGroup() as group:
                watches = [
                    group.create_task(generator._watch(FINETUNEJOBS, generator.seen.saw_job)),
                    group.create_task(generator._watch(PODS, generator.seen.saw_pod)),
                ]
                try:
                    yield generator
                finally:
                    for watch in watches:
                        watch.cancel()
                    await generator._delete_namespace()
        finally:
            await generator.cluster.close()

    async def create_all(self, manifests: Iterable[list[Object]]) -> dict[str, float]:
        """Create the objects of each job, in order.

        Returns, by the job's name, the time at which the last call for the job returned.
        """

        async def create(parts: list[Object]) -> tuple[str, float]:
            for part in parts:
                made = await self.cluster.create(KINDS[part["kind"]], part)
            return _job_of(made), time.monotonic()

        return dict(await self._at_once(create, manifests))

    async def finish_all(self, manifests: Iterable[Object]) -> None:
        """Create FineTuneJobs that are already trained."""

        async def make(manifest: Object) -> None:
            made = await self.cluster.create(FINETUNEJOBS, manifest)
            await self.cluster.put_status(FINETUNEJOBS, objects.finished(made))

        await self._at_once(make, manifests)

    async def fail_all(self, pods: Iterable[Object]) -> dict[str, float]:
        """Make pods fail. Return the time at which each call returned, by the name of the pod's FineTuneJob."""

        async def fail(pod: Object) -> tuple[str, float]:
            while True:
                try:
                    failed = await self.cluster.put_status(PODS, objects.failed(pod))
                    return _job_of(failed), time.monotonic()
                except ConflictError:
                    pod = await self.cluster.get(PODS, self.namespace, pod["metadata"]["name"])

        return dict(await self._at_once(fail, pods))

    async def clear(self) -> None:
        """Delete everything in the namespace but its storage, and wait until it is gone."""
        for plural in (FINETUNEJOBS, JOBS):  # objects that create others are deleted first
            await self._delete_collection(_path(plural, self.namespace))
        paths = [f"/api/v1/namespaces/{self.namespace}/{plural}" for plural in ("pods", "services", "configmaps")]
        paths.append(f"/apis/networking.k8s.io/v1/namespaces/{self.namespace}/networkpolicies")
        await self._delete_each(f"/api/v1/namespaces/{self.namespace}/services")
        for path in paths:
            if not path.endswith("services"):
                await self._delete_collection(path)
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        jobs = [_path(resource, self.namespace) for resource in (FINETUNEJOBS, JOBS)]
        for path in (*jobs, *paths, slices):
            await self._gone(path)
        await self._delete_collection(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        self.seen.forget()

    async def check_room(self, pods: int) -> None:
        """Raise ValueError if the fake nodes do not have room for so many pods."""
        selector = [("labelSelector", "type=kwok")]
        nodes = (await self._transport.request("GET", "/api/v1/nodes", selector))["items"]
        room = sum(int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0)) for node in nodes)
        if room < pods:
            raise ValueError(
                f"{pods} pods of one GPU each do not fit: the {len(nodes)} fake nodes (label type=kwok) "
                f"have {room} GPUs; make more of them, or measure fewer --jobs"
            )

    async def server_version(self) -> str:
        """Return the version of Kubernetes."""
        return str((await self._transport.request("GET", "/version"))["gitVersion"])

    # ---- inside ------------------------------------------------------------------------------------------------------

    async def _at_once(self, work: Callable[[Any], Awaitable[T]], items: Iterable[Any]) -> list[T]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def limited(item: Any) -> T:
            async with limit:
                return await work(item)

        return await asyncio.gather(*(limited(item) for item in items))

    async def _watch(self, resource: Resource, saw: Callable[[Any], None]) -> None:
        async for event in self.cluster.watch(resource, self.namespace):
            saw(event)

    async def _make_namespace(self) -> None:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await self._transport.request("POST", "/api/v1/namespaces", body=namespace)
        volume, claim = objects.storage(self.namespace)
        await self._transport.request("POST", "/api/v1/persistentvolumes", body=volume)
        made = await self.cluster.create(CLAIMS, claim)
        async with asyncio.timeout(PATIENCE):
            while made["status"].get("phase") != "Bound":
                await asyncio.sleep(0.1)
                made = await self.cluster.get(CLAIMS, self.namespace, claim["metadata"]["name"])

    async def _delete_namespace(self) -> None:
        await self._transport.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
        await self._transport.request("DELETE", f"/api/v1/persistentvolumes/{objects.volume_name(self.namespace)}")

    async def _delete_collection(self, path: str) -> None:
        """Delete a collection.

        The deletion of thousands of objects may exceed the time limit of a request, so it is repeated for the rest.
        """
        for last in (False, False, False, False, True):
            try:
                await self._transport.request("DELETE", path, [GRACE, ("propagationPolicy", "Background")])
                return
            except ApiError as error:
                if last or error.status not in (0, 504):
                    raise

    async def _delete_each(self, path: str) -> None:
        """Delete each object separately, as Services require."""

        async def delete(item: Object) -> None:
            with contextlib.suppress(NotFoundError):
                await self._transport.request("DELETE", f"{path}/{item['metadata']['name']}")

        await self._at_once(delete, (await self._transport.request("GET", path))["items"])

    async def _gone(self, path: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while any(map(_is_load, (await self._transport.request("GET", path, [("limit", "3")]))["items"])):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            raise TimeoutError(f"waited {PATIENCE:.0f} s in vain until {path} was empty") from None


def _is_load(item: Object) -> bool:
    """Return whether an object is part of the load. kube-root-ca.crt exists in every namespace."""
    return bool(item["metadata"]["name"] != "kube-root-ca.crt")


def _job_of(made: Object) -> str:
    """Return the name of the FineTuneJob that an object is, or to which it belongs."""
    metadata = made["metadata"]
    return str(metadata.get("labels", {}).get("finetune.dev/job", metadata["name"]))


def _path(resource: Resource, namespace: str) -> str:
    return f"/apis/{resource.group}/{resource.version}/namespaces/{namespace}/{resource.plural}"
