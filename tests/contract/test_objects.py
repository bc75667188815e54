"""Tests of get, list, create, delete, put and put_status: what they guarantee, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.contract import Subject
from support.jobs import config_map, job
from support.manifests import manifest

from finetune_operator.protocol import (
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    LEASES,
    SERVICES,
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    NotFoundError,
    Object,
)


def finetunejob(subject: Subject, name: str = "clauses") -> Object:
    made = manifest(name)
    made["metadata"]["namespace"] = subject.namespace
    return made


async def test_a_created_object_gets_its_identity_and_can_be_read(subject: Subject) -> None:
    created = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace, key="value"))
    for field in ("uid", "resourceVersion", "creationTimestamp"):
        assert created["metadata"][field]
    assert created["data"] == {"key": "value"}
    assert (created["apiVersion"], created["kind"]) == ("v1", "ConfigMap")
    assert await subject.cluster.get(CONFIGMAPS, subject.namespace, "settings") == created


async def test_what_is_read_is_a_copy(subject: Subject) -> None:
    created = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace, key="value"))
    created["data"]["key"] = "changed"
    (listed,) = [o for o in await subject.cluster.list(CONFIGMAPS, subject.namespace) if named(o) == "settings"]
    listed["data"]["key"] = "changed"
    assert (await subject.cluster.get(CONFIGMAPS, subject.namespace, "settings"))["data"] == {"key": "value"}


async def test_a_name_can_be_generated(subject: Subject) -> None:
    made = config_map("ignored", subject.namespace)
    made["metadata"] = {"generateName": "settings-", "namespace": subject.namespace}
    created = await subject.cluster.create(CONFIGMAPS, made)
    assert named(created).startswith("settings-")
    assert len(named(created)) == len("settings-") + 5


async def test_a_second_object_of_the_same_name_is_refused(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    with pytest.raises(AlreadyExistsError) as caught:
        await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert caught.value.message == 'configmaps "settings" already exists'


async def test_an_object_that_is_not_there_is_not_found(subject: Subject) -> None:
    with pytest.raises(NotFoundError) as caught:
        await subject.cluster.get(JOBS, subject.namespace, "missing")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert caught.value.message == 'jobs.batch "missing" not found'
    with pytest.raises(NotFoundError):
        await subject.cluster.delete(JOBS, subject.namespace, "missing")


async def test_in_an_unknown_namespace_nothing_can_be_created_and_lists_are_empty(subject: Subject) -> None:
    with pytest.raises(NotFoundError) as caught:
        await subject.cluster.create(CONFIGMAPS, config_map("settings", "no-such-namespace"))
    assert caught.value.message == 'namespaces "no-such-namespace" not found'
    assert await subject.cluster.list(CONFIGMAPS, "no-such-namespace") == []


async def test_a_list_is_by_name_and_of_one_namespace_or_of_all(subject: Subject) -> None:
    other = await subject.new_namespace()
    for name, namespace in (("b", subject.namespace), ("a", subject.namespace), ("c", other)):
        await subject.cluster.create(CONFIGMAPS, config_map(name, namespace, {"suite": subject.namespace}))
    labels = {"suite": subject.namespace}
    here = await subject.cluster.list(CONFIGMAPS, subject.namespace, labels)
    assert [named(obj) for obj in here] == ["a", "b"]
    assert {(obj["apiVersion"], obj["kind"]) for obj in here} == {("v1", "ConfigMap")}
    everywhere = await subject.cluster.list(CONFIGMAPS, None, labels)
    assert sorted(named(obj) for obj in everywhere) == ["a", "b", "c"]


async def test_labels_select_by_equality_of_all(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("one", subject.namespace, {"a": "1", "b": "1"}))
    await subject.cluster.create(CONFIGMAPS, config_map("two", subject.namespace, {"a": "1", "b": "2"}))
    assert len(await subject.cluster.list(CONFIGMAPS, subject.namespace, {"a": "1"})) == 2
    (found,) = await subject.cluster.list(CONFIGMAPS, subject.namespace, {"a": "1", "b": "2"})
    assert named(found) == "two"
    assert await subject.cluster.list(CONFIGMAPS, subject.namespace, {"a": "2"}) == []


def _bad_name(namespace: str) -> Object:
    return config_map("Not_A_Name", namespace)


def _bad_label(namespace: str) -> Object:
    return config_map("settings", namespace, {"key": "not a label"})


def _long_label(namespace: str) -> Object:
    return config_map("settings", namespace, {"key": "x" * 64})


@pytest.mark.parametrize("make", [_bad_name, _bad_label, _long_label])
async def test_an_object_that_breaks_the_rules_is_invalid(subject: Subject, make: Callable[[str], Object]) -> None:
    with pytest.raises(InvalidError) as caught:
        await subject.cluster.create(CONFIGMAPS, make(subject.namespace))
    assert caught.value.status == 422
    assert "is invalid" in caught.value.message


async def test_a_service_needs_a_dns_label_for_a_name(subject: Subject) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "with.dot", "namespace": subject.namespace},
        "spec": {"clusterIP": "None"},
    }
    with pytest.raises(InvalidError):
        await subject.cluster.create(SERVICES, service)


@pytest.mark.parametrize(
    "broken",
    [{"containers": []}, {"restartPolicy": "Always"}, {"containers": [{"name": "c", "image": "i", "volumeMounts": [
        {"name": "missing", "mountPath": "/data"}]}]}],
    ids=["no containers", "restart policy", "mount without volume"],
)  # fmt: skip
async def test_a_job_whose_pods_could_not_be_made_is_invalid(subject: Subject, broken: Object) -> None:
    made = job("task", subject.namespace, "true", image="i")
    made["spec"]["template"]["spec"].update(broken)
    with pytest.raises(InvalidError) as caught:
        await subject.cluster.create(JOBS, made)
    assert caught.value.status == 422


async def test_an_object_without_a_namespace_is_invalid(subject: Subject) -> None:
    made = config_map("settings", subject.namespace)
    del made["metadata"]["namespace"]
    with pytest.raises(InvalidError):
        await subject.cluster.create(CONFIGMAPS, made)


async def test_a_deleted_object_is_gone(subject: Subject) -> None:
    await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "settings")
    with pytest.raises(NotFoundError):
        await subject.cluster.get(CONFIGMAPS, subject.namespace, "settings")


async def test_delete_with_a_uid_spares_another_object_of_that_name(subject: Subject) -> None:
    old = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "settings", uid=old["metadata"]["uid"])
    new = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    with pytest.raises(ConflictError) as caught:
        await subject.cluster.delete(CONFIGMAPS, subject.namespace, "settings", uid=old["metadata"]["uid"])
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert await subject.cluster.get(CONFIGMAPS, subject.namespace, "settings") == new


async def test_create_fills_in_the_schemas_defaults_and_drops_the_status(subject: Subject) -> None:
    made = finetunejob(subject) | {"status": {"phase": "Complete"}}
    created = await subject.cluster.create(FINETUNEJOBS, made)
    assert created["status"] == {"observedGeneration": -1, "ledgerDropped": 0}
    assert created["spec"]["deepspeed"] == {"zeroStage": 2, "config": {}}
    assert created["metadata"]["generation"] == 1


async def test_a_finetunejob_that_breaks_the_schema_is_invalid(subject: Subject) -> None:
    made = finetunejob(subject)
    made["spec"]["task"] = "Divination"
    with pytest.raises(InvalidError) as caught:
        await subject.cluster.create(FINETUNEJOBS, made)
    assert "Divination" in caught.value.message


async def test_put_writes_all_but_the_status(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    changed = {**read, "spec": {**read["spec"], "suspend": True}, "status": {"phase": "Training"}}
    changed["metadata"] = {**read["metadata"], "labels": {"new": "label"}}
    written = await subject.cluster.put(FINETUNEJOBS, changed)
    assert written["spec"]["suspend"] is True
    assert written["metadata"]["labels"] == {"new": "label"}
    assert written["status"] == read["status"]
    assert (written["metadata"]["generation"], written["metadata"]["uid"]) == (2, read["metadata"]["uid"])
    assert written["metadata"]["resourceVersion"] != read["metadata"]["resourceVersion"]
    assert await subject.cluster.get(FINETUNEJOBS, subject.namespace, "clauses") == written


async def test_the_same_object_again_is_no_write(subject: Subject) -> None:
    read = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace, key="value"))
    assert await subject.cluster.put(CONFIGMAPS, read) == read


def lease(namespace: str, holder: str) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader", "namespace": namespace},
        "spec": {"holderIdentity": holder, "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15},
    }


async def test_of_two_who_put_what_they_have_read_the_second_meets_a_conflict(subject: Subject) -> None:
    read = await subject.cluster.create(LEASES, lease(subject.namespace, ""))
    taken = await subject.cluster.put(LEASES, {**read, "spec": {**read["spec"], "holderIdentity": "one"}})
    assert taken["spec"] == lease(subject.namespace, "one")["spec"]
    with pytest.raises(ConflictError) as caught:
        await subject.cluster.put(LEASES, {**read, "spec": {**read["spec"], "holderIdentity": "other"}})
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert await subject.cluster.get(LEASES, subject.namespace, "leader") == taken


async def test_a_lease_without_a_holder_has_an_empty_one(subject: Subject) -> None:
    assert (await subject.cluster.create(LEASES, lease(subject.namespace, "")))["spec"]["holderIdentity"] == ""


async def test_put_of_an_object_that_breaks_the_rules_is_invalid(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    read["spec"]["task"] = "Divination"
    with pytest.raises(InvalidError):
        await subject.cluster.put(FINETUNEJOBS, read)


async def test_put_needs_the_resource_version(subject: Subject) -> None:
    read = await subject.cluster.create(LEASES, lease(subject.namespace, "one"))
    del read["metadata"]["resourceVersion"]
    with pytest.raises(InvalidError):
        await subject.cluster.put(LEASES, read)


async def test_put_of_a_deleted_object_is_not_found_and_of_its_successor_a_conflict(subject: Subject) -> None:
    read = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    await subject.cluster.delete(CONFIGMAPS, subject.namespace, "settings")
    with pytest.raises(NotFoundError):
        await subject.cluster.put(CONFIGMAPS, read)
    await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    with pytest.raises(ConflictError):
        await subject.cluster.put(CONFIGMAPS, read)


async def test_put_of_a_deleted_lease_is_a_conflict(subject: Subject) -> None:
    """A put may create a lease, so the API server detects the deletion by the UID."""
    read = await subject.cluster.create(LEASES, lease(subject.namespace, "one"))
    await subject.cluster.delete(LEASES, subject.namespace, "leader")
    with pytest.raises(ConflictError):
        await subject.cluster.put(LEASES, read)


async def test_put_status_writes_the_status_alone(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    changed = {**read, "spec": {**read["spec"], "task": "CausalLM"}, "status": {"phase": "Training"}}
    changed["metadata"] = {**read["metadata"], "labels": {"new": "label"}}
    written = await subject.cluster.put_status(FINETUNEJOBS, changed)
    assert written["status"] == {"phase": "Training", "observedGeneration": -1, "ledgerDropped": 0}
    assert written["spec"] == read["spec"]
    assert "labels" not in written["metadata"]
    assert written["metadata"]["generation"] == 1
    assert written["metadata"]["resourceVersion"] != read["metadata"]["resourceVersion"]
    assert await subject.cluster.get(FINETUNEJOBS, subject.namespace, "clauses") == written


async def test_the_same_status_again_is_no_write(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    read["status"] |= {"phase": "Training"}
    first = await subject.cluster.put_status(FINETUNEJOBS, read)
    second = await subject.cluster.put_status(FINETUNEJOBS, first)
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_put_status_conflicts_when_the_object_has_changed_since_it_was_read(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    await subject.cluster.put_status(FINETUNEJOBS, {**read, "status": {"phase": "Training"}})
    with pytest.raises(ConflictError) as caught:
        await subject.cluster.put_status(FINETUNEJOBS, {**read, "status": {"phase": "Failed"}})
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert (await subject.cluster.get(FINETUNEJOBS, subject.namespace, "clauses"))["status"]["phase"] == "Training"


async def test_put_status_conflicts_after_an_edit_of_the_spec(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    edited = await subject.edit(FINETUNEJOBS, "clauses", lambda obj: obj["spec"]["training"].update(epochs=7))
    assert edited["metadata"]["generation"] == 2
    with pytest.raises(ConflictError):
        await subject.cluster.put_status(FINETUNEJOBS, {**read, "status": {"phase": "Training"}})


async def test_an_edit_of_labels_is_no_new_generation_and_keeps_the_status(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    await subject.cluster.put_status(FINETUNEJOBS, {**read, "status": {"phase": "Training"}})
    edited = await subject.edit(FINETUNEJOBS, "clauses", lambda obj: obj["metadata"].update(labels={"team": "legal"}))
    assert edited["metadata"]["generation"] == 1
    assert edited["status"]["phase"] == "Training"


async def test_put_status_needs_the_resource_version(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    del read["metadata"]["resourceVersion"]
    with pytest.raises(InvalidError):
        await subject.cluster.put_status(FINETUNEJOBS, read)


async def test_put_status_of_a_deleted_object_is_not_found_and_of_its_successor_a_conflict(subject: Subject) -> None:
    read = await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    await subject.cluster.delete(FINETUNEJOBS, subject.namespace, "clauses")
    with pytest.raises(NotFoundError):
        await subject.cluster.put_status(FINETUNEJOBS, read)
    await subject.cluster.create(FINETUNEJOBS, finetunejob(subject))
    with pytest.raises(ConflictError):
        await subject.cluster.put_status(FINETUNEJOBS, read)


async def test_a_kind_without_status_has_none_to_put(subject: Subject) -> None:
    created = await subject.cluster.create(CONFIGMAPS, config_map("settings", subject.namespace))
    with pytest.raises(NotFoundError):
        await subject.cluster.put_status(CONFIGMAPS, created)


def named(obj: Object) -> str:
    return str(obj["metadata"]["name"])
