"""A child that somebody deletes while the attempt needs it is created again, if its content can be rebuilt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.clusters import NOW, run_of
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.decide import Decision, decide
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.views import JobView, Observed, PodView
from finetune_operator.core.settings import Settings

SETTINGS = Settings(image="trainer:1")
RUNNING = PodView(uid="u", name="p", index=0, owner_uid="j", node="node-3", scheduled=True, running=True)
CREATING = replace(RUNNING, running=False)


def with_missing(child: MissingChild, pod: PodView = CREATING) -> Decision:
    job = parse(manifest(**{"metadata.uid": "0b5e7d2a", "metadata.generation": 1}))
    status = decide(Observed(job, NOW, "nonce"), SETTINGS).status
    assert status is not None
    found = JobView("j", "0b5e7d2a", NOW, None, "", frozenset(), 1, False)
    goes_on = job.model_copy(update={"status": status})
    return decide(Observed(goes_on, NOW, "nonce", found, (pod,), missing=(child,)), SETTINGS)


@pytest.mark.parametrize("pod", [CREATING, RUNNING], ids=["creating", "running"])
@pytest.mark.parametrize("kind", ["ConfigMap", "Service", "NetworkPolicy"])
def test_a_child_whose_content_can_be_had_is_made_again_and_nothing_else_is_decided(kind: str, pod: PodView) -> None:
    child = MissingChild(kind, "clauses-0b5e7-1-1", can_be_made=True)
    assert with_missing(child, pod) == Decision(make_again=(child,))


def test_a_configuration_that_cannot_be_had_ends_an_attempt_whose_pods_have_not_started() -> None:
    decision = with_missing(MissingChild("ConfigMap", "clauses-0b5e7-1-1", can_be_made=False))
    assert decision.status is not None
    (entry,) = decision.status.ledger
    assert (entry.class_, entry.counted) == ("Preempted", False)
    assert entry.message.startswith("ConfigMap clauses-0b5e7-1-1 was deleted, and the same one cannot be made again")
    assert run_of(decision.status).attempt == 2
    assert decision.delete_job == "clauses-0b5e7-1-1"


def test_a_configuration_that_all_pods_have_read_is_not_needed_and_an_event_says_so() -> None:
    decision = with_missing(MissingChild("ConfigMap", "clauses-0b5e7-1-1", can_be_made=False), RUNNING)
    assert (decision.status, decision.make_again) == (None, ())
    (note,) = decision.notes
    assert (note.type, note.reason) == ("Warning", "NotMadeAgain")
    assert note.message.endswith("the attempt goes on, because all its pods have read it")


def test_a_policy_of_an_older_configuration_is_replaced_with_the_attempt_also_while_its_pods_run() -> None:
    decision = with_missing(MissingChild("NetworkPolicy", "clauses-0b5e7-abcde", can_be_made=False), RUNNING)
    assert decision.status is not None
    assert decision.status.ledger[0].class_ == "Preempted"
