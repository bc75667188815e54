"""Tests of owner references: dependents are deleted in the background after their owners."""

from __future__ import annotations

from support.contract import STAYS, Subject
from support.jobs import config_map, owned_by

from finetune_operator.protocol import CONFIGMAPS, JOBS, PODS, Object


async def is_gone(subject: Subject, name: str) -> bool:
    return name not in [obj["metadata"]["name"] for obj in await subject.cluster.list(CONFIGMAPS, subject.namespace)]


async def make(subject: Subject, name: str, *owners: Object) -> Object:
    """Create a ConfigMap with owners."""
    child = config_map(name, subject.namespace)
    references = [owned_by(owner, child)["metadata"]["ownerReferences"][0] for owner in owners]
    child["metadata"]["ownerReferences"] = references
    return await subject.cluster.create(CONFIGMAPS, child)


async def test_children_and_grandchildren_go_with_their_owner(subject: Subject) -> None:
    owner = await make(subject, "owner")
    child = await make(subject, "child", owner)
    await make(subject, "grandchild", child)
    await make(subject, "stranger")
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "owner")
    await subject.until(lambda: is_gone(subject, "child"))
    await subject.until(lambda: is_gone(subject, "grandchild"))
    assert not await is_gone(subject, "stranger")


async def test_a_child_that_comes_after_its_owner_is_gone_goes_too(subject: Subject) -> None:
    owner = await make(subject, "owner")
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "owner")
    await make(subject, "late", owner)
    await subject.until(lambda: is_gone(subject, "late"))


async def test_a_new_owner_of_the_same_name_does_not_adopt(subject: Subject) -> None:
    old = await make(subject, "owner")
    await make(subject, "child-of-old", old)
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "owner")
    new = await make(subject, "owner")
    await make(subject, "child-of-new", new)
    await make(subject, "late-child-of-old", old)
    await subject.until(lambda: is_gone(subject, "child-of-old"))
    await subject.until(lambda: is_gone(subject, "late-child-of-old"))
    assert not await is_gone(subject, "child-of-new")
    assert not await is_gone(subject, "owner")


async def test_a_child_of_two_stays_until_both_are_gone(subject: Subject) -> None:
    first, second = await make(subject, "first"), await make(subject, "second")
    only = await make(subject, "only")
    await make(subject, "child-of-two", first, second)
    await make(subject, "child-of-one", only)
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "first")
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "only")
    await subject.until(lambda: is_gone(subject, "child-of-one"))
    assert not await is_gone(subject, "child-of-two")
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "second")
    await subject.until(lambda: is_gone(subject, "child-of-two"))


async def test_the_pods_of_a_deleted_job_are_stopped_and_go(subject: Subject) -> None:
    owner = await make(subject, "owner")
    await subject.start_job("task", STAYS)
    await subject.edit(JOBS, "task", lambda obj: obj.update(owned_by(owner, obj)))
    await subject.running(1)
    async with subject.watched(PODS) as events:
        await subject.cluster.delete(CONFIGMAPS, subject.namespace, "owner")

        async def pod_is_gone() -> bool:
            return bool(events) and events[-1].type == "DELETED"

        await subject.until(pod_is_gone)
    assert "deletionTimestamp" in events[-1].object["metadata"]
    assert await subject.cluster.list(JOBS, subject.namespace) == []
