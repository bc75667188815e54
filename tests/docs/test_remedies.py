"""The remedies of docs/troubleshooting.md work: each test makes the edit that the page names, and the job continues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from docs.test_troubleshooting import sections
from support import jobs as manifests_of_others
from support.clusters import NOW, World, claim, condition, operated, run_of
from support.manifests import changed, manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import Phase
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.decide import decide
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import (
    CLAIMS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    ForbiddenError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_trainer.contract import FailureClass

SETTINGS = Settings(image="trainer:1")
NONE = ("none is needed", "wait")
"""How a remedy begins that asks for no action."""
REQUEST = {"spec.retrain.request": "again"}


def remedy(part: str, heading: str) -> str:
    """Return the text of an entry's remedy as one line."""
    return " ".join(sections(part)[heading].partition("- **Remedy:** ")[2].split())


# ---- classes: the run has failed, and the edit asks for another one -------------------------------------------------

AFTER_FAILURE: dict[FailureClass, tuple[str, dict[str, Any]]] = {
    FailureClass.INVALID: (
        "`podTemplate.securityContext.fsGroup: 65532`", {"spec.podTemplate.securityContext": {"fsGroup": 65532}},
    ),
    FailureClass.DIVERGED: ("a tenth of the learning rate", {"spec.training.learningRate": 2e-5}),
    FailureClass.OUT_OF_MEMORY: ("a higher `resources.memory`", {"spec.resources.memory": "64Gi"}),
    FailureClass.HUNG: ("a changed `spec.retrain.request`", {"spec.faultTolerance.hangMinutes": 9, **REQUEST}),
    FailureClass.MISMATCH: ("The trainer's image of the operator's version".lower(), {"spec.image": "trainer:2"}),
    FailureClass.UNTRUSTED: ("change `spec.retrain.request`", REQUEST),
    FailureClass.STARTUP_TIMEOUT: (
        "a changed `spec.retrain.request`", {"spec.faultTolerance.startupMinutes": 60, **REQUEST},
    ),
    FailureClass.GANG_TIMEOUT: ("fewer `resources.nodes`", {"spec.resources.nodes": 1}),
    FailureClass.DEADLINE: (
        "More minutes, and a changed `retrain.request`".lower(), {"spec.faultTolerance.queueMinutes": 120, **REQUEST},
    ),
    FailureClass.INFRASTRUCTURE: ("`podTemplate.affinity`", {"spec.podTemplate.affinity": {"nodeAffinity": {}}}),
    FailureClass.UNKNOWN: ("change `spec.retrain.request`", REQUEST),
}  # fmt: skip


def failed(failure: FailureClass) -> FineTuneJobStatus:
    """Return the status of a job of two nodes whose run has failed finally."""
    job = parse(manifest(**FIRST))
    run = next_run(job, 1, SETTINGS, "n", NOW).model_copy(update={"completion_time": "2026-01-01T00:00:00Z"})
    entry = ledger.failure(run, Cause(failure, "it failed"), False, "", 3, NOW)
    return ledger.entered(FineTuneJobStatus(run=run, phase=Phase.FAILED), entry)


FIRST: dict[str, Any] = {
    "metadata.uid": "0b5e7d2a", "metadata.generation": 1, "spec.resources.nodes": 2,
}  # fmt: skip


@pytest.mark.parametrize("failure", FailureClass)
def test_the_edit_that_a_class_of_failure_names_asks_for_another_run(failure: FailureClass) -> None:
    text = remedy("Classes of failure", failure)
    if failure not in AFTER_FAILURE:
        assert text.startswith(NONE), f"name the edit of {failure} in this table, so that it is tried"
        return
    quote, edit = AFTER_FAILURE[failure]
    assert quote in text.lower() or quote in text
    edited = parse(manifest(**{**FIRST, "metadata.generation": 2, **edit}))
    job = edited.model_copy(update={"status": failed(failure)})
    status = decide(Observed(job, NOW + timedelta(hours=1), "fresh"), SETTINGS).status
    assert status is not None
    assert run_of(status).number == 2


# ---- reasons: the job waits or is stalled, and the remedy moves it on -----------------------------------------------

Act = Callable[[World], Awaitable[object]]


def edits(**changes: Any) -> Act:
    return lambda world: world.edit(**changes)


async def unscheduled(world: World) -> None:
    (pod,) = await world.pods_of_attempt(1, 1)
    world.driver.unschedulable(pod, "0/3 nodes are available: 3 Insufficient cpu.")


def in_its_container(reason: str, message: str) -> Act:
    async def wait(world: World) -> None:
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.schedule(pod)
        world.driver.wait(pod, reason, message)

    return wait


async def suspended_by_a_queue(world: World) -> None:
    await world.pods_of_attempt(1, 1)
    (job,) = await world.cluster.list(JOBS, "default")
    await world.cluster.put(JOBS, {**job, "spec": {**job["spec"], "suspend": True}})


async def another_s_job(world: World) -> None:
    """Create a Job of somebody else that has the name of the second attempt's Job."""
    (pod,) = await world.pods_of_attempt(1, 1)
    name = child_name("clauses", (await world.job())["metadata"]["uid"], 1, 2)
    await world.cluster.create(JOBS, manifests_of_others.job(name, "default", "sleep", pods=0))
    world.driver.schedule(pod)
    world.driver.finish(pod, 1)


async def that_job_is_deleted(world: World) -> None:
    name = child_name("clauses", (await world.job())["metadata"]["uid"], 1, 2)
    await world.cluster.delete(JOBS, "default", name)
    await world.edit(**{"spec.ttlSecondsAfterFinished": 9})  # triggers a reconcile sooner


async def lost_its_node(world: World) -> None:
    (pod,) = await world.pods_of_attempt(1, 1)
    world.driver.schedule(pod, "node-0")
    world.driver.lose_node("node-0")


async def ended_badly(world: World) -> None:
    (pod,) = await world.pods_of_attempt(1, 1)
    world.driver.schedule(pod)
    world.driver.finish(pod, 76)


async def nothing(world: World) -> None:
    """Do nothing: the job is stuck from the beginning."""


async def its_node_returns(world: World) -> None:
    world.driver.return_node("node-0")


def its_claim_is(**changes: Any) -> Act:
    """Return an act that creates the claim `other` with changes that make it unusable."""

    async def made(world: World) -> None:
        await world.cluster.create(CLAIMS, changed(claim("other", "ReadWriteMany"), changes))
        await world.edit(**{"spec.ttlSecondsAfterFinished": 8})  # triggers a reconcile sooner

    return made


async def loses_its_volume(world: World) -> None:
    await its_claim_is()(world)
    found = await world.cluster.get(CLAIMS, "default", "other")
    world.cluster.update(CLAIMS, {**found, "status": {"phase": "Lost"}})
    await world.edit(**{"spec.suspend": False})


async def its_claim_is_made_anew(world: World) -> None:
    with suppress(NotFoundError):
        await world.cluster.delete(CLAIMS, "default", "other")
    await world.cluster.create(CLAIMS, claim("other", "ReadWriteMany"))
    await world.edit(**{"spec.ttlSecondsAfterFinished": 9})


UNREADABLE = {"spec.model.uri": "file:///srv/model"}
STUCK: dict[str, tuple[str, dict[str, Any], Act, Act, tuple[int, int]]] = {
    "Unschedulable": (
        "as the sentence says; an edit takes effect at once", {}, unscheduled,
        edits(**{"spec.resources.cpu": "1"}), (1, 2),
    ),
    "PodsRefused": (
        "lower `resources`", {"spec.resources.memory": "64Gi"}, nothing,
        edits(**{"spec.resources.memory": "8Gi"}), (1, 2),
    ),
    "Queued": (
        "lower `resources` take effect at once", {}, suspended_by_a_queue,
        edits(**{"spec.resources.cpu": "1"}), (1, 2),
    ),
    "ImageNotPulled": (
        "correct `spec.image`", {"spec.image": "nope:1"}, in_its_container("ErrImagePull", "not found"),
        edits(**{"spec.image": "trainer:1"}), (1, 2),
    ),
    "ContainerNotCreated": (
        "`podTemplate.env`", {"spec.podTemplate.env": [{"name": "A", "value": "b"}]},
        in_its_container("CreateContainerConfigError", "secret not found"),
        edits(**{"spec.podTemplate.env": []}), (1, 2),
    ),
    "ClaimNotFound": (
        "create the claim", {"spec.storage.claimName": "other"}, nothing, its_claim_is_made_anew, (1, 1),
    ),
    "ClaimBeingDeleted": (
        "name another one in the field", {"spec.storage.claimName": "other"},
        its_claim_is(**{"metadata.deletionTimestamp": "2026-01-01T00:00:00Z"}),
        edits(**{"spec.storage.claimName": "finetune"}), (1, 1),
    ),
    "ClaimLost": (
        "delete the claim and create it anew", {"spec.storage.claimName": "other", "spec.suspend": True},
        loses_its_volume, its_claim_is_made_anew, (1, 1),
    ),
    "VolumeAttachedElsewhere": ("bring the node back", {}, lost_its_node, its_node_returns, (1, 2)),
    "Suspended": ("`spec.suspend: false`", {"spec.suspend": True}, nothing, edits(**{"spec.suspend": False}), (1, 1)),
    "Failed": ("change `spec.retrain.request`", {}, ended_badly, edits(**REQUEST), (2, 1)),
    "InvalidSpec": (
        "correct the field that the sentence names", UNREADABLE, nothing,
        edits(**{"spec.model.uri": "workspace://models/minilm"}), (1, 1),
    ),
    "NameConflict": ("delete that object", {}, another_s_job, that_job_is_deleted, (1, 2)),
    "VolumeNotShared": (
        "`resources.nodes: 1`", {"spec.resources.nodes": 2}, nothing, edits(**{"spec.resources.nodes": 1}), (1, 1),
    ),
}  # fmt: skip
"""For each reason: a quote of the remedy, the job's changes, what happens to it, the remedy, and the run and attempt
that follow."""
NO_EDIT = {"InvalidStatus", "CheckpointFailing", "Straggling", "Pending", "Starting", "PodsRunning", "Refused"}
"""Reasons whose remedy is to observe, to wait, or to change something outside of the job."""


def test_every_reason_whose_remedy_is_an_act_is_tried() -> None:
    asks = {name for name in sections("Reasons") if not remedy("Reasons", name).startswith(NONE)}
    assert asks - NO_EDIT <= STUCK.keys()


def with_quota(resource: Resource, obj: Object) -> Object:
    if resource == PODS and obj["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Gi":
        raise ForbiddenError(403, "Forbidden", "exceeded quota: team")
    return admit(resource, obj)


@pytest.mark.parametrize("reason", STUCK)
async def test_the_remedy_of_a_reason_moves_the_job_on(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.runtime.observer.REFUSED_AFTER", 0.0)
    quote, changes, happens, act, (number, attempt) = STUCK[reason]
    assert quote in remedy("Reasons", reason)
    async with operated(automatic=False, admission=with_quota, modes=("ReadWriteOnce",)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**changes))
        await happens(world)
        await world.until(lambda s: s.conditions and any(c.reason == reason for c in s.conditions if c.type == "Ready"))
        await act(world)
        status = await world.until(
            lambda s: s.run and s.run.job_uid and (s.run.number, s.run.attempt) == (number, attempt)
        )
        assert condition(status, "Stalled")[0] == "False"
