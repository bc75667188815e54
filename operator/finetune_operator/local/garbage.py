"""The garbage collector: what lists owners, none of which exists any more, is deleted.

An owner is known by its UID alone, so the children of an object that was deleted and made again under its old name go
too, and so does a child that is created when its owner is already gone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from finetune_operator.local.store import Store
from finetune_operator.protocol import Event, Object, Resource

Key = tuple[Resource, str, str, str]
"""Kind, namespace, name, UID."""
Wait = Callable[[], Awaitable[None]]


def _owners(obj: Object) -> set[str]:
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])}


class GarbageCollector:
    """Deletes orphans in the background."""

    def __init__(self, store: Store, delete: Callable[[Resource, Object], None], wait: Wait) -> None:
        """`wait` returns when the collector may look at the next one."""
        self._store = store
        self._delete = delete
        self._wait = wait
        self._owners: dict[Key, set[str]] = {}
        # Dictionaries for sets in order: what happens must not depend on hashes.
        self._children: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._suspects: asyncio.Queue[Key] = asyncio.Queue()
        store.listen(self._see)

    async def run(self) -> None:
        """Endless."""
        while True:
            resource, namespace, name, uid = await self._suspects.get()
            await self._wait()
            obj = self._store.get(resource, namespace, name)
            if obj is None or obj["metadata"]["uid"] != uid:
                continue
            owners = _owners(obj)
            if owners and not any(map(self._store.has_uid, owners)):
                self._delete(resource, obj)

    def _see(self, resource: Resource, event: Event) -> None:
        meta = event.object["metadata"]
        key = (resource, meta["namespace"], meta["name"], meta["uid"])
        owners = _owners(event.object) if event.type != "DELETED" else set()
        before = self._owners.pop(key, set())
        if owners:
            self._owners[key] = owners
        for owner in before - owners:
            self._children[owner].pop(key, None)
        for owner in owners - before:
            self._children[owner][key] = None
        if owners and owners != before:
            self._suspects.put_nowait(key)
        if event.type == "DELETED":
            for child in self._children.pop(meta["uid"], {}):
                self._suspects.put_nowait(child)
