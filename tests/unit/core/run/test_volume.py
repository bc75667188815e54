"""An attempt starts when its claims exist, can be mounted and are no longer used by earlier attempts."""

from __future__ import annotations

from typing import Any

import pytest
from support.clusters import NOW, condition
from support.manifests import manifest

from finetune_operator import constants
from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec, FineTuneJobStatus
from finetune_operator.core.decide import Decision, decide
from finetune_operator.core.observed.claims import Claims, ClaimView
from finetune_operator.core.observed.views import Observed, PodView
from finetune_operator.core.run.resolve import with_config_digest
from finetune_operator.core.run.volume import Obstacle, holder, obstacle
from finetune_operator.core.settings import Settings

SETTINGS = Settings(image="trainer:1")
MANY, ONE, READ = (ClaimView((mode,)) for mode in ("ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"))
DATA = {"spec.dataset.uri": "pvc://corpus/train.jsonl"}


def job(**changes: Any) -> FineTuneJob:
    return parse(manifest(**{"metadata.uid": "0b5e7d2a", "metadata.generation": 1, **changes}))


def spec(**changes: Any) -> FineTuneJobSpec:
    return job(**changes).spec


def pod(**facts: Any) -> PodView:
    return PodView(uid="u", name="p", index=0, owner_uid="j", **facts)


# ---- obstacles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2])
def test_claims_that_are_there_and_shared_are_in_nobody_s_way(nodes: int) -> None:
    assert obstacle(spec(**DATA), "store", nodes, {"store": MANY, "corpus": READ}) is None


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"store": None, "corpus": MANY}, Obstacle(constants.CLAIM_NOT_FOUND, "storage.claimName", "store")),
        ({"store": MANY, "corpus": None}, Obstacle(constants.CLAIM_NOT_FOUND, "dataset.uri", "corpus")),
        (
            {"store": ClaimView(("ReadWriteMany",), deleted=True), "corpus": None},
            Obstacle(constants.CLAIM_BEING_DELETED, "storage.claimName", "store"),
        ),
        (
            {"store": MANY, "corpus": ClaimView(("ReadWriteMany",), lost=True)},
            Obstacle(constants.CLAIM_LOST, "dataset.uri", "corpus"),
        ),
    ],
)
def test_the_first_claim_that_cannot_be_used_is_named_with_its_field(claims: Claims, found: Obstacle) -> None:
    assert obstacle(spec(**DATA), "store", 1, claims) == found


def test_the_storage_of_several_nodes_is_written_by_all_and_their_data_need_only_be_read_by_all() -> None:
    shared = constants.VOLUME_NOT_SHARED
    assert obstacle(spec(), "store", 2, {"store": READ}) == Obstacle(
        shared, "storage.claimName", "store", "ReadOnlyMany", "ReadWriteMany"
    )
    assert obstacle(spec(**DATA), "store", 2, {"store": MANY, "corpus": ONE}) == Obstacle(
        shared, "dataset.uri", "corpus", "ReadWriteOnce", "ReadWriteMany or ReadOnlyMany"
    )
    assert obstacle(spec(**DATA), "store", 1, {"store": ONE, "corpus": ONE}) is None


def test_a_claim_that_holds_data_and_storage_is_judged_as_storage() -> None:
    found = obstacle(spec(**DATA), "corpus", 2, {"corpus": READ})
    assert found is not None
    assert found.field == "storage.claimName"


def test_claims_that_were_not_looked_up_are_not_judged() -> None:
    assert obstacle(spec(**DATA), "store", 2, None) is None


@pytest.mark.parametrize(
    ("status", "metadata", "view"),
    [
        ({"phase": "Bound"}, {}, MANY),
        ({"phase": "Pending"}, {}, MANY),
        ({}, {}, MANY),
        ({"phase": "Lost"}, {}, ClaimView(("ReadWriteMany",), lost=True)),
        (
            {"phase": "Bound"},
            {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            ClaimView(("ReadWriteMany",), deleted=True),
        ),
    ],
    ids=["bound", "pending", "new", "lost", "being deleted"],
)
def test_a_claim_may_still_wait_for_its_volume(status: Any, metadata: Any, view: ClaimView) -> None:
    assert ClaimView.of({"metadata": metadata, "spec": {"accessModes": ["ReadWriteMany"]}, "status": status}) == view


def test_a_claim_without_a_readable_mode_has_none() -> None:
    assert ClaimView.of({"spec": {"accessModes": "ReadWriteMany"}}) == ClaimView(())


# ---- what is decided ------------------------------------------------------------------------------------------------


def decided(status: FineTuneJobStatus | None, claims: Claims, **changes: Any) -> tuple[Decision, FineTuneJobStatus]:
    seen = job(**changes).model_copy(update={"status": status or FineTuneJobStatus()})
    decision = decide(Observed(seen, NOW, "nonce", claims=claims), SETTINGS)
    assert decision.status is not None
    return decision, decision.status


def test_a_claim_that_is_not_there_is_waited_for_and_no_run_begins() -> None:
    decision, status = decided(None, {"finetune": None})
    assert (decision.create_children, decision.look_again, status.run) == (False, 5, None)
    assert condition(status, "Reconciling") == ("True", "ClaimNotFound")
    assert condition(status, "Stalled")[0] == "False"
    (message,) = {c.message for c in status.conditions}
    assert message == (
        "storage.claimName: there is no claim finetune in namespace default; create it or name another one, and the "
        "job goes on by itself"
    )


def test_a_later_attempt_waits_for_its_claim_which_is_that_of_the_run() -> None:
    _, begun = decided(None, {"finetune": MANY})
    assert begun.run is not None
    second = with_config_digest(job(), begun.run.model_copy(update={"attempt": 2}), SETTINGS)
    decision, status = decided(begun.model_copy(update={"run": second}), {"finetune": None})
    assert (decision.create_children, status.phase) == (False, "Restarting")
    assert condition(status, "Ready") == ("False", "ClaimNotFound")
    assert "create it, and the job goes on by itself" in status.conditions[0].message


def test_a_claim_that_lost_its_volume_stalls_until_somebody_acts() -> None:
    _, status = decided(None, {"finetune": ClaimView((), lost=True)})
    assert condition(status, "Stalled") == ("True", "ClaimLost")


def test_data_that_one_node_can_mount_stall_a_job_of_several_nodes() -> None:
    nodes = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
    _, status = decided(None, {"finetune": MANY, "corpus": ONE}, **DATA, **nodes)
    assert condition(status, "Stalled") == ("True", "VolumeNotShared")
    (message,) = {c.message for c in status.conditions}
    assert message == (
        "dataset.uri: claim corpus is ReadWriteOnce, which 2 nodes cannot mount together; use a ReadWriteMany or "
        "ReadOnlyMany claim or resources.nodes: 1"
    )


# ---- which pods use the storage -------------------------------------------------------------------------------------


def test_a_pod_on_a_node_holds_a_claim_that_one_node_mounts() -> None:
    on_node = pod(scheduled=True, node="n1")
    assert holder([pod(), on_node], {"store": ONE}, "store") is on_node
    assert holder([on_node], {"store": ClaimView(("ReadWriteOncePod",))}, "store") is on_node


def test_a_dead_nodes_pod_holds_nothing_up_on_a_shared_claim() -> None:
    both = {"store": ClaimView(("ReadWriteOnce", "ReadWriteMany"))}
    assert holder([pod(scheduled=True, node="n1")], both, "store") is None


def test_a_pod_without_a_node_holds_nothing() -> None:
    assert holder([pod()], {"store": ONE}, "store") is None


def test_a_claim_that_was_not_looked_up_is_held_by_nobody() -> None:
    assert holder([pod(scheduled=True, node="n1")], None, "store") is None
