"""Tests of the calls to a real cluster that the command line needs beyond the protocol."""

from __future__ import annotations

import asyncio

import pytest
from support.contract import STAYS, Plan, Real
from support.jobs import config_map
from support.manifests import manifest

from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, PODS, ConflictError, InvalidError, NotFoundError

pytestmark = pytest.mark.parametrize("subject", [pytest.param("real", marks=pytest.mark.cluster)], indirect=True)


async def test_apply_creates_and_then_changes(subject: Real) -> None:
    made = manifest("clauses", **{"metadata.namespace": subject.namespace})
    first = await subject.cluster.apply(FINETUNEJOBS, made, "finetune-cli")
    made["spec"]["training"] = {"epochs": 9}
    second = await subject.cluster.apply(FINETUNEJOBS, made, "finetune-cli")
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert (first["metadata"]["generation"], second["metadata"]["generation"]) == (1, 2)
    assert second["spec"]["training"]["epochs"] == 9


async def test_apply_and_create_refuse_an_unknown_field_by_name(subject: Real) -> None:
    made = manifest("clauses", **{"metadata.namespace": subject.namespace, "spec.trainning": {"epochs": 9}})
    with pytest.raises(InvalidError, match="trainning"):
        await subject.cluster.apply(FINETUNEJOBS, made, "finetune-cli")
    with pytest.raises(InvalidError, match="trainning"):
        await subject.cluster.create(FINETUNEJOBS, made)


async def test_apply_does_not_take_a_field_from_another_manager(subject: Real) -> None:
    made = config_map("settings", subject.namespace, key="theirs")
    await subject.cluster.apply(CONFIGMAPS, made, "somebody-else")
    made["data"]["key"] = "ours"
    with pytest.raises(ConflictError, match="somebody-else"):
        await subject.cluster.apply(CONFIGMAPS, made, "finetune-cli")


async def test_a_log_is_read_to_its_end(subject: Real) -> None:
    await subject.start_job("task", Plan(exit_code=0))
    await subject.job_has("task", "Complete")
    (pod,) = await subject.cluster.list(PODS, subject.namespace)
    name = pod["metadata"]["name"]
    assert [line async for line in subject.cluster.read_log(subject.namespace, name)] == ["started\n"]
    assert [line async for line in subject.cluster.read_log(subject.namespace, name, tail=0)] == []


async def test_a_log_is_followed_until_the_container_ends(subject: Real) -> None:
    await subject.start_job("task", STAYS)
    (pod,) = await subject.running(1)
    name = pod["metadata"]["name"]
    lines: list[str] = []

    async def follow() -> None:
        async for line in subject.cluster.read_log(subject.namespace, name, follow=True):
            lines.append(line)

    following = asyncio.create_task(follow())

    async def has_begun() -> bool:
        return lines == ["started\n"]

    await subject.until(has_begun)
    assert not following.done()
    await subject.cluster.delete(PODS, subject.namespace, name)
    async with asyncio.timeout(30):
        await following


async def test_the_log_of_a_pod_that_is_not_there_is_not_found(subject: Real) -> None:
    with pytest.raises(NotFoundError):
        await anext(aiter(subject.cluster.read_log(subject.namespace, "missing")))


async def test_a_list_of_many_objects_is_read_in_pages(subject: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.kube.client.PAGE", 2)
    for number in range(5):
        await subject.cluster.create(CONFIGMAPS, config_map(f"part-{number}", subject.namespace, {"suite": "pages"}))
    found = await subject.cluster.list(CONFIGMAPS, subject.namespace, {"suite": "pages"})
    assert [obj["metadata"]["name"] for obj in found] == [f"part-{number}" for number in range(5)]
