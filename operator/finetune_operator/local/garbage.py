"""The garbage collector: what lists owners, none of which exists any more, is deleted.

An owner is known by its UID alone, so the children of an object that was deleted and made again under its old name go
too, and so does a child that is created when its owner is already gone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from finetune_operator.local.store import Store
from finetune_operator.protocol import Event, Object, Resource

Key = tuple[Resource, str, str, str]
"""Kind, namespace, name, UID."""


def _owners(obj: Object) -> set[str]:
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])}


class GarbageCollector:
    """Deletes orphans in the background."""

    def __init__(self, store: Store, delete: Callable[[Resource, Object], None]) -> None:
        self._store = store
        self._delete = delete
        self._owners: dict[Key, set[str]] = {}
        self._children: defaultdict[str, set[Key]] = defaultdict(set)
        self._suspects: asyncio.Queue[Key] = asyncio.Queue()
        store.listen(self._see)

    async def run(self) -> None:
        """Endless."""
        while True:
            resource, namespace, name, uid = await self._suspects.get()
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
            self._children[owner].discard(key)
        for owner in owners - before:
            self._children[owner].add(key)
        if owners and owners != before:
            self._suspects.put_nowait(key)
        if event.type == "DELETED":
            for child in self._children.pop(meta["uid"], set()):
                self._suspects.put_nowait(child)
