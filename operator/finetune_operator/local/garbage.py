"""The garbage collector: it deletes an object with owner references when none of these owners exists any more.

An owner is identified only by its UID. So the children of an object that was deleted and created again with the same
name are deleted too, and so is a child that is created after its owner was deleted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from finetune_operator.local.store import Store
from finetune_operator.protocol import Event, Object, Resource

Key = tuple[Resource, str, str, str]
"""The kind, namespace, name and UID of an object."""
Wait = Callable[[], Awaitable[None]]


def _owners(obj: Object) -> set[str]:
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])}


class GarbageCollector:
    """Deletes orphaned objects in the background."""

    def __init__(self, store: Store, delete: Callable[[Resource, Object], None], wait: Wait) -> None:
        """Register with the store.

        `wait` returns when the collector may handle the next object.
        """
        self._store = store
        self._delete = delete
        self._wait = wait
        self._owners: dict[Key, set[str]] = {}
        # The inner dictionaries are ordered sets: the order of deletions must not depend on hashes.
        self._children: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        self._suspects: asyncio.Queue[Key] = asyncio.Queue()
        store.listen(self._see)

    async def run(self) -> None:
        """Run until cancelled."""
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
