"""A claim that one node mounts at a time is let go of before the next attempt."""

from __future__ import annotations

from typing import Any

from finetune_operator.core.observed.views import PodView
from finetune_operator.core.run.volume import holder, is_shared


def pod(**facts: Any) -> PodView:
    return PodView(uid="u", name="p", index=0, owner_uid="j", **facts)


def test_a_pod_on_a_node_holds_a_claim_that_one_node_mounts() -> None:
    on_node = pod(scheduled=True, node="n1")
    assert holder([pod(), on_node], ("ReadWriteOnce",)) is on_node
    assert holder([on_node], ("ReadWriteOncePod",)) is on_node


def test_a_dead_nodes_pod_holds_nothing_up_on_a_shared_claim() -> None:
    assert holder([pod(scheduled=True, node="n1")], ("ReadWriteOnce", "ReadWriteMany")) is None


def test_a_pod_without_a_node_holds_nothing() -> None:
    assert holder([pod()], ("ReadWriteOnce",)) is None


def test_a_claim_that_was_not_found_is_not_judged() -> None:
    assert is_shared(None)
    assert not is_shared(())
