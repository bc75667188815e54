"""Evaluation rows that are also training rows are counted, and refused if there are too many."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainer.fixtures_data import COLUMNS, dataset, workspace, write_jsonl, write_pictures

from finetune_trainer import contract
from finetune_trainer.contract import Columns
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError

TRAIN = [{"clause": f"Clause {i} binds", "type": ["rent", "term"][i % 2]} for i in range(200)]
FRESH = [{"clause": f"Fresh {i}", "type": "rent"} for i in range(100)]


def leaked(folder: Path, evaluation: list[dict[str, str]], allowed: float | None = None) -> int:
    """Return the number of leaks found in these evaluation rows."""
    paths = workspace(folder)
    write_jsonl(paths.workspace / "train.jsonl", TRAIN)
    write_jsonl(paths.workspace / "evaluation.jsonl", evaluation)
    source = dataset("workspace://train.jsonl", COLUMNS, "workspace://evaluation.jsonl")
    source = source.model_copy(update={"max_leak_fraction": allowed})
    return load_rows(source, "SequenceClassification", paths).leaked


def test_rows_that_differ_are_no_leak(tmp_path: Path) -> None:
    assert leaked(tmp_path, FRESH) == 0


def test_one_row_of_a_hundred_is_counted_and_allowed(tmp_path: Path) -> None:
    assert leaked(tmp_path, [*FRESH[:99], TRAIN[7]]) == 1


@pytest.mark.parametrize(
    "text",
    ["Clause 7 binds", "  clause 7 BINDS ", "Clause  7\tbinds\n", "CLAUSE\u00a07 binds"],
    ids=["exact", "case", "blanks", "a blank that does not break"],
)
def test_more_than_one_of_a_hundred_is_refused_whatever_their_case_and_blanks(tmp_path: Path, text: str) -> None:
    rows = [*FRESH[:98], {"clause": text, "type": "rent"}, TRAIN[8]]
    with pytest.raises(InvalidError) as refused:
        leaked(tmp_path, rows)
    assert str(refused.value) == (
        "dataset.evaluation.uri: 2 of 100 evaluation rows are also training rows, but for case and blanks, the first "
        "one at evaluation.jsonl:99; remove them from one side, or allow them by dataset.evaluation.maxLeakFraction "
        "(now 0.01)"
    )


def test_the_label_does_not_matter(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="1 of 1 evaluation rows"):
        leaked(tmp_path, [{**TRAIN[0], "type": "term"}])


def test_more_are_allowed_if_the_user_says_so(tmp_path: Path) -> None:
    assert leaked(tmp_path, [*FRESH[:50], *TRAIN[:50]], allowed=0.5) == 50
    with pytest.raises(InvalidError, match=r"now 0\.4"):
        leaked(tmp_path, [*FRESH[:50], *TRAIN[:50]], allowed=0.4)


def test_none_are_allowed_if_the_user_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"1 of 100 evaluation rows .*now 0\)"):
        leaked(tmp_path, [*FRESH[:99], TRAIN[7]], allowed=0)


def test_equal_pictures_leak(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    write_pictures(paths.workspace / "train")
    write_pictures(paths.workspace / "evaluation", per_class=4)
    columns = Columns(image="image", label="label")
    with pytest.raises(InvalidError, match="8 of 8 evaluation rows are also training rows"):
        load_rows(dataset("workspace://train", columns, "workspace://evaluation"), "ImageClassification", paths)


def test_a_fraction_puts_rows_that_differ_only_by_case_or_blanks_on_one_side(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    variants = [
        {"clause": text, "type": row["type"]} for row in TRAIN for text in (row["clause"], f" {row['clause'].upper()}")
    ]
    write_jsonl(paths.workspace / "rows.jsonl", variants)
    rows = load_rows(dataset("workspace://rows.jsonl"), "SequenceClassification", paths)
    sides = [{text.strip().lower() for text in side["text"]} for side in (rows.train, rows.evaluation)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("changed", ["prompt", "completion"])
def test_a_prompt_with_another_answer_is_no_leak(tmp_path: Path, changed: str) -> None:
    paths = workspace(tmp_path)
    row = {"prompt": "Is rent due?", "completion": "Yes."}
    write_jsonl(paths.workspace / "train.jsonl", [row, {**row, "prompt": "other"}])
    write_jsonl(paths.workspace / "evaluation.jsonl", [{**row, changed: "Something else."}])
    columns = contract.Columns(prompt="prompt", completion="completion")
    source = dataset("workspace://train.jsonl", columns, "workspace://evaluation.jsonl")
    assert load_rows(source, "CausalLM", paths).leaked == 0
