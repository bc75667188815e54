"""Tests of watches: each watcher receives what exists, then every change."""

from __future__ import annotations

import asyncio

from support.contract import Subject
from support.jobs import config_map

from finetune_operator.protocol import CONFIGMAPS, Event


def told(events: list[Event]) -> list[tuple[str, str, str]]:
    """Return (type, name, data.key) of each event about the tests' own ConfigMaps."""
    return [
        (event.type, event.object["metadata"]["name"], event.object.get("data", {}).get("key", ""))
        for event in events
        if event.object["metadata"]["name"] != "kube-root-ca.crt"
    ]


async def write(subject: Subject, name: str, key: str) -> None:
    await subject.edit(CONFIGMAPS, name, lambda obj: obj.update(data={"key": key}))


async def until_told(subject: Subject, events: list[Event], *expected: tuple[str, str, str]) -> None:
    """Wait for these events, and check that there are no others and that their order is the same."""

    async def as_many() -> bool:
        return len(told(events)) >= len(expected)

    await subject.until(as_many)
    assert told(events) == list(expected)


async def test_a_watch_begins_with_what_exists_and_goes_on_with_every_change(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("old", subject.namespace, key="1"))
    async with subject.watched(CONFIGMAPS) as events:
        await until_told(subject, events, ("ADDED", "old", "1"))
        await write(subject, "old", "2")
        await subject.cluster.create(CONFIGMAPS, config_map("new", subject.namespace, key="1"))
        await write(subject, "old", "3")
        await subject.cluster.delete(CONFIGMAPS, subject.namespace, "old")
        expected = [("ADDED", "old", "1"), ("MODIFIED", "old", "2"), ("ADDED", "new", "1"), ("MODIFIED", "old", "3")]
        await until_told(subject, events, *expected, ("DELETED", "old", "3"))


async def test_a_deletion_is_told_with_the_last_state_and_a_version_of_its_own(subject: Subject) -> None:
    created = await subject.cluster.create(CONFIGMAPS, config_map("old", subject.namespace, key="1"))
    async with subject.watched(CONFIGMAPS) as events:
        await until_told(subject, events, ("ADDED", "old", "1"))
        await subject.cluster.delete(CONFIGMAPS, subject.namespace, "old")
        await until_told(subject, events, ("ADDED", "old", "1"), ("DELETED", "old", "1"))
    deleted = events[-1].object
    assert deleted["metadata"]["uid"] == created["metadata"]["uid"]
    assert int(deleted["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    assert (deleted["apiVersion"], deleted["kind"]) == ("v1", "ConfigMap")


async def test_a_write_that_changes_nothing_is_not_told(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("old", subject.namespace, key="1"))
    async with subject.watched(CONFIGMAPS) as events:
        await until_told(subject, events, ("ADDED", "old", "1"))
        await write(subject, "old", "1")
        await write(subject, "old", "2")
        await until_told(subject, events, ("ADDED", "old", "1"), ("MODIFIED", "old", "2"))


async def test_an_object_comes_and_goes_with_the_labels_that_are_watched(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("other", subject.namespace, {"team": "b"}, key="1"))
    await subject.cluster.create(CONFIGMAPS, config_map("moving", subject.namespace, {"team": "b"}, key="1"))
    async with subject.watched(CONFIGMAPS, {"team": "a"}) as events:
        await subject.cluster.create(CONFIGMAPS, config_map("first", subject.namespace, {"team": "a"}, key="1"))
        await until_told(subject, events, ("ADDED", "first", "1"))
        await subject.edit(CONFIGMAPS, "moving", lambda obj: obj["metadata"].update(labels={"team": "a"}))
        await write(subject, "moving", "2")
        await subject.edit(
            CONFIGMAPS, "moving", lambda obj: obj.update(metadata={**obj["metadata"], "labels": {}}, data={"key": "3"})
        )
        await write(subject, "moving", "4")
        await write(subject, "first", "2")
        expected = [("ADDED", "first", "1"), ("ADDED", "moving", "1"), ("MODIFIED", "moving", "2")]
        await until_told(subject, events, *expected, ("DELETED", "moving", "2"), ("MODIFIED", "first", "2"))


async def test_another_namespace_is_not_told_of_but_by_a_watch_of_all(subject: Subject) -> None:
    other = await subject.new_namespace()
    labels = {"suite": subject.namespace}
    everywhere: list[Event] = []

    async def watch_all() -> None:
        async for event in subject.cluster.watch(CONFIGMAPS, None, labels):
            everywhere.append(event)

    task = asyncio.create_task(watch_all())
    async with subject.watched(CONFIGMAPS, labels) as here:
        await subject.cluster.create(CONFIGMAPS, config_map("theirs", other, labels, key="1"))
        await subject.cluster.create(CONFIGMAPS, config_map("ours", subject.namespace, labels, key="1"))
        await until_told(subject, here, ("ADDED", "ours", "1"))
        await subject.until(lambda: _length(everywhere, 2))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted(told(everywhere)) == [("ADDED", "ours", "1"), ("ADDED", "theirs", "1")]


async def test_several_watchers_are_told_the_same_and_cannot_disturb_each_other(subject: Subject) -> None:
    labels = {"suite": "several"}
    async with subject.watched(CONFIGMAPS, labels) as first, subject.watched(CONFIGMAPS, labels) as second:
        await subject.cluster.create(CONFIGMAPS, config_map("one", subject.namespace, labels, key="1"))
        await until_told(subject, first, ("ADDED", "one", "1"))
        first[0].object["data"]["key"] = "spoilt"
        await write(subject, "one", "2")
        await until_told(subject, second, ("ADDED", "one", "1"), ("MODIFIED", "one", "2"))


async def test_a_watch_that_was_cancelled_leaves_the_cluster_at_work(subject: Subject) -> None:
    waiting = asyncio.create_task(anext(aiter(subject.cluster.watch(CONFIGMAPS, subject.namespace, {"none": "such"}))))
    await asyncio.sleep(0)
    waiting.cancel()
    (result,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError)
    async with subject.watched(CONFIGMAPS, {"suite": "next"}) as events:
        await subject.cluster.create(CONFIGMAPS, config_map("one", subject.namespace, {"suite": "next"}, key="1"))
        await until_told(subject, events, ("ADDED", "one", "1"))


async def _length(events: list[Event], count: int) -> bool:
    return len(events) >= count
