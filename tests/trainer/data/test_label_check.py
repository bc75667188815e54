"""Labels that cannot be classes are refused, acceptable ones never are, and labels that look alike are reported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from trainer.fixtures_data import dataset, workspace, write_jsonl

from finetune_trainer.data.label_check import LabelCounts, label_notes, refuse_no_classes, shown
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError


def counts(labels: Iterable[object]) -> LabelCounts:
    counted = LabelCounts()
    for number, label in enumerate(labels, 1):
        counted.add(f"t.jsonl:{number}", str(label), f"text {number}")
    return counted


FAIR = {
    "77 intents of ten rows": [i % 77 for i in range(770)],
    "a thousand classes of three rows": [f"class {i % 1000}" for i in range(3000)],
    "a hundred classes, most of one row": [i % 100 for i in range(120)],
    "a long tail": [*range(400), *(f"often {i % 3}" for i in range(500))],
    "a few rows, each of its own class": range(19),
    "half stars": [i % 10 / 2 for i in range(50)],
    "codes with a leading zero": [f"{i % 60 + 1:02}.11" for i in range(300)],
    "ages": [i % 70 for i in range(700)],
    "versions": ["1.0", "1.1", "2.0"],
    "two classes": [i % 2 for i in range(20)],
    "names that float can read": ["nan", "inf"] * 20,
}
NONE = {
    "ids": (range(2000), "has 2000 different labels in 2000 rows, and 2000 of them occur only once; a class needs"),
    "texts": ([f"text {i}" for i in range(20)], "has 20 different labels in 20 rows, and 20 of them occur only once;"),
    "mostly ids": ([*range(16), *["a"] * 4], "has 17 different labels in 20 rows, and 16 of them occur only once;"),
    "scores": (
        [round(i * 0.0247, 3) for i in range(200)],
        "holds 200 different numbers with fractions, as scores are, and learning scores (regression) is no task here; "
        "make classes of them, such as low and high, or write codes as words",
    ),
    "scores that occur often": ([i % 26 / 5 for i in range(5000)], "holds 26 different numbers with fractions,"),
    "a few scores": ([0.37, 0.52, 1.0, 0.01, 0.9, 0.44, 0.2, 0.81, 0.66, 0.75], "holds 10 different numbers with"),
}


@pytest.mark.parametrize("labels", FAIR.values(), ids=FAIR)
def test_fair_classes_are_never_refused(labels: Iterable[object]) -> None:
    refuse_no_classes(counts(labels), "type")


@pytest.mark.parametrize(("labels", "sentence"), NONE.values(), ids=NONE)
def test_labels_that_are_no_classes_are_refused(labels: Iterable[object], sentence: str) -> None:
    with pytest.raises(InvalidError) as error:
        refuse_no_classes(counts(labels), "type")
    assert str(error.value).startswith(f"dataset.columns.label: column 'type' {sentence}")


def test_labels_that_are_the_texts_are_refused_whatever_their_number(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    write_jsonl(paths.workspace / "t.jsonl", [{"clause": f" yes {i % 2}", "type": f"yes {i % 2}"} for i in range(10)])
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://t.jsonl", evaluation="workspace://t.jsonl"), "SequenceClassification", paths)
    assert str(error.value) == (
        "dataset.columns.label: column 'type' holds the text of each row again; name the column of the classes"
    )


# ---- labels that look alike -----------------------------------------------------------------------------------------

ALIKE = {
    "case": (["Ham"] * 12 + ["ham"] * 30 + ["HAM"], "'ham' (30 rows), 'Ham' (12 rows) and 1 more"),
    "inner blanks": (["no fee"] * 3 + ["no  fee"] * 2, "'no fee' (3 rows) and 'no  fee' (2 rows)"),
    "a space of no width": (["ham"] * 3 + ["ham\u200b"] * 2, r"'ham' (3 rows) and 'ham\u200b' (2 rows)"),
    "a space that does not break": (["no fee"] * 3 + ["no\xa0fee"] * 2, r"'no fee' (3 rows) and 'no\xa0fee' (2 rows)"),
    "two ways to write an accent": (["caf\xe9"] * 3 + ["cafe\u0301"] * 2, r"'café' (3 rows) and 'cafe\u0301' (2 rows)"),
    "spellings of true": (
        ["true"] * 4 + ["True"] * 3 + ["TRUE"] * 2,
        "'true' (4 rows), 'True' (3 rows) and 'TRUE' (2 rows)",
    ),
    "rows of one": (["yes", "Yes"], "2 labels of one row each"),
}


@pytest.mark.parametrize(("labels", "named"), ALIKE.values(), ids=ALIKE)
def test_labels_that_differ_by(labels: list[str], named: str) -> None:
    assert label_notes(counts([*labels, "spam", "spam"])) == (
        f"dataset.columns.label: {named} differ only by case, blanks or invisible characters; are they one class?",
    )


def test_labels_that_differ_visibly_are_not_noted() -> None:
    assert label_notes(counts(["ham", "spam", "ham!", "h-am", "hàm", "1", "10", "-1"])) == ()


def test_there_are_few_notes_however_many_labels_look_the_same() -> None:
    notes = label_notes(counts(f"{letter} {i}" for i in range(100) for letter in "aAaA"))
    assert len(notes) == 6
    assert notes[-1] == "dataset.columns.label: 95 more groups of labels differ only like that"


def test_many_labels_of_one_row_are_noted() -> None:
    assert label_notes(counts(f"class {i % 100}" for i in range(120))) == (
        "dataset.columns.label: 80 of 120 rows have a label that no other row has; is it the column of the classes?",
    )


def test_labels_that_look_the_same_stay_classes_and_are_noted(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    rows = [{"clause": f"row {i}", "type": [True, "True", False][i % 3]} for i in range(30)]
    write_jsonl(paths.workspace / "t.jsonl", rows)
    loaded = load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths)
    assert loaded.labels == ("True", "false", "true")
    assert loaded.notes == (
        "dataset.columns.label: 'true' (10 rows) and 'True' (10 rows) differ only by case, blanks or invisible "
        "characters; are they one class?",
    )


# ---- how a message quotes a label -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "count", "said"),
    [("rent", 2, "'rent'"), ("rent", 1, "of 4 characters"), ("a" * 41, 9, "of 41 characters"), ("é", 2, "'é'")],
)
def test_a_label_is_quoted_when_it_is_the_name_of_a_class(label: str, count: int, said: str) -> None:
    assert shown(label, count) == said


def test_a_class_that_is_not_learned_is_named_if_it_has_several_rows(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    write_jsonl(paths.workspace / "t.jsonl", [{"clause": f"row {i}", "type": "ab"[i % 2]} for i in range(10)])
    write_jsonl(paths.workspace / "e.jsonl", [{"clause": "x", "type": "fee"}, {"clause": "y", "type": "fee"}])
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://t.jsonl", evaluation="workspace://e.jsonl"), "SequenceClassification", paths)
    assert str(error.value) == (
        "dataset.evaluation.uri: label 'fee' at e.jsonl:1 occurs in no training row; "
        "add such rows to workspace://t.jsonl or remove it here"
    )
