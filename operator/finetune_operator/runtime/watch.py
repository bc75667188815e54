"""The informer of the in-memory cluster, which takes the place of kopf there."""

from __future__ import annotations

import asyncio

from finetune_operator.protocol import Cluster, Resource
from finetune_operator.runtime.intake import Intake


async def inform(cluster: Cluster, intake: Intake) -> None:
    """Watch until cancelled."""
    async with asyncio.TaskGroup() as group:
        for resource in intake.watched:
            group.create_task(_watch(cluster, resource, intake))


async def _watch(cluster: Cluster, resource: Resource, intake: Intake) -> None:
    async for event in cluster.watch(resource, None):
        intake.saw(resource, event.object, gone=event.type == "DELETED")
