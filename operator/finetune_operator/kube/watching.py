"""A watch that survives interruptions and misses no deleted object.

The API server ends every watch after some minutes, connections break, and after a long gap the server no longer has the
events (410 Gone). So a watch resumes from the last resourceVersion that it received. After a 410 it lists the objects
again, and reports the differences from the objects that it knew as events: an object that vanished in the gap is
reported as DELETED, with its last known state.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import aiohttp

from finetune_operator.kube.transport import Query, Transport
from finetune_operator.protocol import ApiError, Event, Object

GONE = 410
FINAL = frozenset({400, 401, 403, 404, 422})
"""The status codes of errors that a retry cannot resolve."""
SERVER_TIMEOUT_SECONDS = 240
SILENCE = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
"""The timeouts of a watch: as the server sends a bookmark about every minute, a longer silence is a dead connection."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0

Lister = Callable[[], Coroutine[Any, Any, tuple[list[Object], str]]]
"""A function that returns all objects and the resourceVersion of the list."""


async def watch(transport: Transport, path: str, query: Query, lister: Lister) -> AsyncIterator[Event]:
    """Watch objects as `protocol.Cluster.watch` describes.

    Raises ApiError if the first list fails, or later if an error is FINAL, for example a lost permission.
    """
    known: dict[str, Object] = {}
    version = ""
    delay = 0.0
    first = True
    while True:
        try:
            if not version:
                objects, version = await lister()
                for event in differences(known, objects):
                    yield event
                known = {obj["metadata"]["uid"]: obj for obj in objects}
                first = False
            async with contextlib.aclosing(_stream(transport, path, query, version)) as stream:
                async for kind, obj in stream:
                    version = obj["metadata"]["resourceVersion"]
                    delay = 0.0
                    if kind == "BOOKMARK":
                        continue
                    if kind == "DELETED":
                        known.pop(obj["metadata"]["uid"], None)
                    else:
                        known[obj["metadata"]["uid"]] = obj
                    yield Event(kind, obj)
            await asyncio.sleep(FIRST_DELAY)
        except ApiError as error:
            if first or error.status in FINAL:
                raise
            if error.status == GONE:
                version = ""
                continue
            delay = min(max(delay * 2, FIRST_DELAY), LONGEST_DELAY)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))


def differences(known: dict[str, Object], objects: list[Object]) -> Iterator[Event]:
    """Yield the events that lead from the known objects to those of a new list."""
    present = {obj["metadata"]["uid"] for obj in objects}
    for uid, obj in known.items():
        if uid not in present:
            yield Event("DELETED", obj)
    for obj in objects:
        before = known.get(obj["metadata"]["uid"])
        if before is None:
            yield Event("ADDED", obj)
        elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            yield Event("MODIFIED", obj)


async def _stream(
    transport: Transport, path: str, query: Query, version: str
) -> AsyncGenerator[tuple[Any, Object], None]:
    """Yield the events of one connection until the server ends it.

    Raises ApiError, also for an event of type ERROR.
    """
    asked = [
        *query,
        ("watch", "true"),
        ("resourceVersion", version),
        ("allowWatchBookmarks", "true"),
        ("timeoutSeconds", str(SERVER_TIMEOUT_SECONDS)),
    ]
    async with transport.lines(path, asked, SILENCE) as lines:
        async for line in lines:
            event = json.loads(line)
            obj = event["object"]
            if event["type"] == "ERROR":
                raise ApiError(int(obj.get("code", 0)), str(obj.get("reason", "")), str(obj.get("message", "")))
            yield event["type"], obj
