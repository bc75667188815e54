"""Rows that are cut or supervise nothing are counted and reported, and refused if there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer import tiny

from finetune_trainer.contract import MAX_NOTES, Facts
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.prepare import Prepared, prepare

LENGTH = 8
ENOUGH = {"prompt": "w1 w2", "completion": " w3 w4"}
CUT = {"prompt": "w1 w2 w3 w4 w5 w6", "completion": " w7 w8 w9"}
"""A row of ten tokens, including the end of text; the cut keeps two tokens of the answer."""
LOST = {"prompt": "w1 w2 w3 w4 w5 w6 w7 w8 w9", "completion": " w10"}
"""A row of which the cut keeps nothing of the answer."""


def rows_of(*parts: tuple[dict[str, str], int]) -> list[dict[str, str]]:
    """Return rows that differ: each but the first has another word in front of its prompt."""
    rows = [row for row, count in parts for _ in range(count)]
    return [{**row, "prompt": f"w{n % 60} {row['prompt']} "} if n else row for n, row in enumerate(rows)]


def prepared(
    folder: Path, rows: list[dict[str, str]], evaluation: list[dict[str, str]] | None = None, bad: float | None = None,
    length: int = LENGTH, tokenizer_limit: int | None = None,
) -> Prepared:  # fmt: skip
    """Prepare these rows and return what preparation wrote."""
    model = tiny.save_model(folder / "model", tiny.CAUSAL_LM, tiny.llama())
    if tokenizer_limit:
        tokenizer = tiny.tokenizer(pad=True)
        tokenizer.model_max_length = tokenizer_limit
        tokenizer.save_pretrained(model)
    train = tiny.write_rows(folder / "train.jsonl", rows)
    measured = tiny.write_rows(folder / "evaluation.jsonl", evaluation or [{"prompt": "w58", "completion": " w59"}])
    config = tiny.run_config(tiny.CAUSAL_LM, model, train, measured, sequence_length=length)
    dataset = config.dataset.model_copy(update={"max_bad_fraction": bad})
    config, paths = config.model_copy(update={"dataset": dataset}), tiny.paths_in(folder)
    prepare(config, paths)
    return Prepared.load(config, paths)


def counts(facts: Facts) -> dict[str, Any]:
    return facts.model_dump(exclude={"notes"})


def test_rows_that_fit_are_counted_and_nothing_is_noted(tmp_path: Path) -> None:
    facts = prepared(tmp_path, rows_of((ENOUGH, 5))).facts
    assert counts(facts) == {
        "training_rows": 5,
        "evaluation_rows": 1,
        "effective_length": LENGTH,
        "cut_rows": 0,
        "empty_rows": 0,
        "leaked_rows": 0,
    }
    assert facts.notes == ()


def test_cut_rows_are_counted_and_noted(tmp_path: Path) -> None:
    facts = prepared(tmp_path, rows_of((ENOUGH, 5), (CUT, 3))).facts
    assert (facts.cut_rows, facts.empty_rows) == (3, 0)
    assert facts.notes == ("3 of 9 rows are longer than 8 tokens; their ends are cut off.",)


def test_one_row_of_a_hundred_with_nothing_left_is_noted(tmp_path: Path) -> None:
    facts = prepared(tmp_path, rows_of((ENOUGH, 98), (LOST, 1))).facts
    assert (facts.cut_rows, facts.empty_rows) == (1, 1)
    assert facts.notes[1] == "1 of 100 rows have nothing left to learn."


def test_more_than_one_of_a_hundred_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as refused:
        prepared(tmp_path, rows_of((ENOUGH, 97), (LOST, 2)))
    assert str(refused.value) == (
        "training.sequenceLength: cut at 8 tokens, 2 of 100 rows have nothing left to learn, the first one at "
        "train.jsonl:98; give a greater length or shorter rows, or allow them by dataset.maxBadFraction (now 0.01)"
    )


def test_more_are_allowed_if_the_user_says_so(tmp_path: Path) -> None:
    assert prepared(tmp_path, rows_of((ENOUGH, 49), (LOST, 50)), bad=0.5).facts.empty_rows == 50


@pytest.mark.parametrize("side", ["training", "evaluation"])
def test_a_side_with_nothing_at_all_to_learn_is_always_refused(tmp_path: Path, side: str) -> None:
    lost, enough = rows_of((LOST, 3)), [ENOUGH, {**ENOUGH, "prompt": "w9"}]
    sides = (lost, enough) if side == "training" else (enough, lost)
    with pytest.raises(InvalidError, match=f"cut at 8 tokens, no {side} row has anything left to learn"):
        prepared(tmp_path, *sides, bad=1.0)


def test_a_row_that_is_not_cut_and_teaches_nothing_is_not_blamed_on_the_length(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", tiny.CAUSAL_LM, tiny.llama())
    rows = tiny.write_rows(tmp_path / "rows.jsonl", [{"text": "<end>"}, {"text": "w1 w2"}])
    measured = tiny.write_rows(tmp_path / "evaluation.jsonl", [{"text": "w3 w4"}])
    columns = tiny.contract.Columns(text="text")
    config = tiny.run_config(tiny.CAUSAL_LM, model, rows, measured, columns=columns)
    with pytest.raises(
        InvalidError, match=r"^dataset\.columns: 1 of 3 rows have nothing left to learn, .*rows\.jsonl:1"
    ):
        prepare(config, tiny.paths_in(tmp_path))


def test_the_tokenizers_limit_is_the_length_and_is_noted(tmp_path: Path) -> None:
    facts = prepared(tmp_path, rows_of((ENOUGH, 5)), length=32, tokenizer_limit=10).facts
    assert facts.effective_length == 10
    assert facts.notes[0] == (
        "training.sequenceLength: rows are cut at 10 tokens and not at 32, because the model or its tokenizer reads no "
        "more."
    )


@pytest.mark.parametrize(("words", "cut"), [(7, 0), (8, 0), (9, 1)])
def test_a_text_to_classify_counts_as_cut_only_if_it_is_longer(tmp_path: Path, words: int, cut: int) -> None:
    model = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, tiny.bert())
    long = {"text": " ".join(tiny.WORDS[:words]), "label": "a"}
    rows = tiny.write_rows(tmp_path / "rows.jsonl", [long, {"text": "w1", "label": "b"}])
    measured = tiny.write_rows(tmp_path / "evaluation.jsonl", [{"text": "w3", "label": "a"}])
    config, paths = tiny.run_config(tiny.SEQUENCE, model, rows, measured, sequence_length=8), tiny.paths_in(tmp_path)
    prepare(config, paths)
    assert Prepared.load(config, paths).facts.cut_rows == cut


def test_pictures_have_no_length(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", tiny.IMAGE, tiny.vit())
    config = tiny.run_config(tiny.IMAGE, model, tiny.make_rows(tmp_path / "train", tiny.IMAGE, 30))
    paths = tiny.paths_in(tmp_path)
    prepare(config, paths)
    facts = Prepared.load(config, paths).facts
    assert (facts.effective_length, facts.cut_rows) == (None, 0)
    assert len(facts.notes) <= MAX_NOTES


def test_rows_are_checked_before_weights_are_read(tmp_path: Path) -> None:
    """The weights are unreadable, but the message is about the rows."""
    model = tiny.save_model(tmp_path / "model", tiny.CAUSAL_LM, tiny.llama())
    (model / "model.safetensors").write_bytes(b"spoilt")
    rows = tiny.write_rows(tmp_path / "rows.jsonl", [{"prompt": "", "completion": "w1"}])
    config = tiny.run_config(tiny.CAUSAL_LM, model, rows)
    with pytest.raises(InvalidError, match=r"dataset\.columns\.prompt: rows\.jsonl:1"):
        prepare(config, tiny.paths_in(tmp_path))
