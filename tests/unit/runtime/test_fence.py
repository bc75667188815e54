"""No write starts after a leader's time is over, even if the leader could not notice it. Reads continue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from support.jobs import config_map
from support.scripted import ScriptedDriver

from finetune_operator.core.leadership import ACT_FOR, RENEW_EVERY
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.protocol import CONFIGMAPS, ApiError, Cluster, NotFoundError, Object
from finetune_operator.runtime.fence import Fence
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.leader import Candidate, Leader

Write = Callable[[Cluster, Object], Awaitable[object]]
WRITES: dict[str, Write] = {
    "create": lambda cluster, read: cluster.create(CONFIGMAPS, config_map("another", "lab")),
    "delete": lambda cluster, read: cluster.delete(CONFIGMAPS, "lab", "settings"),
    "put": lambda cluster, read: cluster.put(CONFIGMAPS, {**read, "data": {"key": "new"}}),
    "put_status": lambda cluster, read: cluster.put_status(CONFIGMAPS, read),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_leader_whose_loop_stood_still_writes_nothing_more(write: Write) -> None:
    now = 0.0
    cluster = LocalCluster(ScriptedDriver())
    for namespace in ("ops", "lab"):
        cluster.add_namespace(namespace)
    read = await cluster.create(CONFIGMAPS, config_map("settings", "lab"))
    begun = asyncio.Event()
    leader = Leader(cluster, Candidate("ops", "lease", "one", lambda: now), Health(), begun.set, lambda: None)
    fence = Fence(cluster, leader.may_act)
    with pytest.raises(ApiError, match="leads no more"):
        await write(fence, read)
    running = asyncio.create_task(leader.run())
    await asyncio.wait_for(begun.wait(), 5)

    now = ACT_FOR
    with pytest.raises(ApiError, match="leads no more") as refused:
        await write(fence, read)
    assert (refused.value.status, refused.value.reason) == (0, "NotLeading")
    assert await fence.list(CONFIGMAPS, "lab") == [read]
    assert await fence.get(CONFIGMAPS, "lab", "settings") == read

    now = RENEW_EVERY
    with suppress(NotFoundError):  # the in-memory cluster refuses it, because a ConfigMap has no status
        await write(fence, read)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(ApiError, match="leads no more"):
        await write(fence, read)
