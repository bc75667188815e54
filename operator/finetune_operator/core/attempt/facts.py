"""The facts that preparation found in the data of a run, as rank 0's pod reports them."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.api.v1alpha1 import FactsStatus
from finetune_operator.core.observed.plausible import LARGEST_FIGURE
from finetune_operator.core.observed.text import shortened
from finetune_operator.core.observed.views import PodView
from finetune_trainer.contract import MAX_NOTE_CHARACTERS, MAX_NOTES, Facts, PodStatus


def from_answers(answers: Iterable[PodStatus], so_far: FactsStatus | None) -> FactsStatus | None:
    """Return the facts in the agents' answers, or else the known ones."""
    return _first((answer.facts for answer in answers), so_far)


def from_pods(pods: Iterable[PodView], so_far: FactsStatus | None) -> FactsStatus | None:
    """Return the facts in the termination message of rank 0's pod, or else the known ones."""
    return _first((pod.message.facts for pod in pods if pod.index == 0 and pod.message), so_far)


def _first(found: Iterable[Facts | None], so_far: FactsStatus | None) -> FactsStatus | None:
    facts = next((facts for facts in found if facts and _is_plausible(facts)), None)
    if facts is None:
        return so_far
    notes = [shortened(note, MAX_NOTE_CHARACTERS) for note in facts.notes[:MAX_NOTES]]
    return FactsStatus(**facts.model_dump(exclude={"notes"}), notes=notes)


def _is_plausible(facts: Facts) -> bool:
    """Return whether a status can hold the counts.

    The API server would refuse other counts again and again.
    """
    counts = facts.model_dump(exclude={"notes"}, exclude_none=True).values()
    return all(0 <= count < LARGEST_FIGURE for count in counts)
