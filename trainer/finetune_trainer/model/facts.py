"""Collects facts about the encoded rows: how many are cut, how many have nothing to learn, and notes for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import datasets
import numpy as np

from finetune_trainer.contract import MAX_NOTE_CHARACTERS, MAX_NOTES, Facts, RunConfig
from finetune_trainer.data.rows import Rows
from finetune_trainer.errors import InvalidError

MAX_BAD_FRACTION = 0.01
"""The default of the fraction of rows that may have nothing to learn."""


def facts_of(
    config: RunConfig,
    rows: Rows,
    train: datasets.Dataset,
    evaluation: datasets.Dataset,
    effective_length: int | None,
    notes: Iterable[str] = (),
) -> Facts:
    """Return the facts about the encoded rows. `notes` are sentences about the data from earlier steps.

    Raises InvalidError if too many rows have nothing to learn, or all rows of one side.
    """
    sides = (train, evaluation)
    cut = sum(int(np.count_nonzero(side["cut"])) for side in sides)
    empty_rows = [len(side) - int(np.count_nonzero(side["count"])) for side in sides]
    facts = Facts(
        training_rows=len(train),
        evaluation_rows=len(evaluation),
        effective_length=effective_length,
        cut_rows=cut,
        empty_rows=sum(empty_rows),
        leaked_rows=rows.leaked,
    )
    _refuse_empty_rows(config, facts, sides, empty_rows)
    sentences = [*_sentences(config, facts), *notes]
    return facts.model_copy(update={"notes": tuple(_shortened(note) for note in sentences[:MAX_NOTES])})


def _refuse_empty_rows(
    config: RunConfig, facts: Facts, sides: Sequence[datasets.Dataset], empty_rows: Sequence[int]
) -> None:
    total = facts.training_rows + facts.evaluation_rows
    allowed = MAX_BAD_FRACTION if config.dataset.max_bad_fraction is None else config.dataset.max_bad_fraction
    all_of_one = next((side for side, empty in zip(sides, empty_rows, strict=True) if empty == len(side)), None)
    if facts.empty_rows <= allowed * total and all_of_one is None:
        return
    empty = [
        (name, was_cut)
        for side in sides
        for name, count, was_cut in zip(side["id"], side["count"], side["cut"], strict=True)
        if not count
    ]
    by_cutting = any(was_cut for _, was_cut in empty)
    where = f"training.sequenceLength: cut at {facts.effective_length} tokens" if by_cutting else "dataset.columns"
    remedy = "give a greater length or shorter rows" if by_cutting else "remove these rows"
    if all_of_one is not None:
        side = "training" if all_of_one is sides[0] else "evaluation"
        found = f"no {side} row has anything left to learn"
    else:
        found = f"{len(empty)} of {total} rows have nothing left to learn, the first one at {empty[0][0]}"
        remedy += f", or allow them by dataset.maxBadFraction (now {allowed:g})"
    raise InvalidError(f"{where}{',' if by_cutting else ':'} {found}; {remedy}")


def _sentences(config: RunConfig, facts: Facts) -> list[str]:
    total = facts.training_rows + facts.evaluation_rows
    sentences = []
    length, wanted = facts.effective_length, config.training.sequence_length
    if length is not None and length < wanted:
        sentences.append(
            f"training.sequenceLength: rows are cut at {length} tokens and not at {wanted}, because the model or its "
            "tokenizer reads no more."
        )
    if facts.cut_rows:
        sentences.append(f"{facts.cut_rows} of {total} rows are longer than {length} tokens; their ends are cut off.")
    if facts.empty_rows:
        sentences.append(f"{facts.empty_rows} of {total} rows have nothing left to learn.")
    if facts.leaked_rows:
        sentences.append(
            f"{facts.leaked_rows} of {facts.evaluation_rows} evaluation rows are also training rows, but for case and "
            "blanks."
        )
    return sentences


def _shortened(note: str) -> str:
    return note if len(note) <= MAX_NOTE_CHARACTERS else f"{note[: MAX_NOTE_CHARACTERS - 1]}…"
