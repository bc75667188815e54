"""What the trainer finds in the data reaches the status by answers or by the termination message, and stays there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.clusters import NOW
from unit.core.test_decide import child, ended_well, job, started

from finetune_operator.api.v1alpha1 import FactsStatus
from finetune_operator.core.attempt.facts import from_answers, from_pods
from finetune_operator.core.decide import decide
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import MAX_NOTE_CHARACTERS, MAX_NOTES, Facts, PodStatus

FACTS = Facts(training_rows=90, evaluation_rows=10, effective_length=64, cut_rows=3, notes=("3 rows are cut.",))
KNOWN = FactsStatus(training_rows=90, evaluation_rows=10, effective_length=64, cut_rows=3, notes=["3 rows are cut."])


def answer(facts: Facts | None) -> PodStatus:
    return PodStatus(pod_uid="u", attempt=1, nonce="n", index=0, facts=facts)


def test_an_answer_brings_the_facts_and_one_without_keeps_them() -> None:
    assert from_answers([answer(FACTS)], None) == KNOWN
    assert from_answers([answer(None)], KNOWN) == KNOWN
    assert from_answers([], None) is None


@pytest.mark.parametrize("count", [-1, 2**53])
def test_counts_that_no_status_can_hold_are_dropped(count: int) -> None:
    assert from_answers([answer(FACTS.model_copy(update={"cut_rows": count}))], KNOWN) == KNOWN


def test_notes_are_few_short_and_plain() -> None:
    facts = FACTS.model_copy(update={"notes": ("\x1b[31mx" * 500,) * 50})
    found = from_answers([answer(facts)], None)
    assert found is not None
    assert len(found.notes) == MAX_NOTES
    assert all(len(note) <= MAX_NOTE_CHARACTERS and "\x1b" not in note for note in found.notes)


def test_the_last_message_brings_the_facts_of_a_run_that_was_never_asked() -> None:
    status = started()
    pod = ended_well(status)
    assert pod.message is not None
    pod = replace(pod, message=pod.message.model_copy(update={"facts": FACTS}))
    assert from_pods([pod], None) == KNOWN
    assert from_pods([replace(pod, index=1)], None) is None
    observed = Observed(job(status), NOW, "n", child(succeeded=frozenset({0})), (pod,))
    ended = decide(observed, Settings(image="trainer:1")).status
    assert ended is not None
    assert ended.facts == KNOWN
