"""A base classifier keeps its head's weights for the labels in the data, whatever their order and number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models_table.small_config import small_config
from trainer import tiny
from transformers import AutoModelForImageClassification

from finetune_trainer.model.labels import head_parameters, in_base_order, rows_of, set_labels
from finetune_trainer.model.prepare import Prepared, prepare

TASKS = pytest.mark.parametrize(
    ("task", "make"), [(tiny.SEQUENCE, tiny.bert), (tiny.IMAGE, tiny.vit)], ids=["texts", "pictures"]
)


def start(
    folder: Path, task: str, make: Any, base_labels: tuple[str, ...], body_only: bool = False
) -> tuple[Any, Any, Prepared]:
    """Return the base model with these labels, the start model for `tiny.LABELS`, and what was prepared."""
    config = make()
    config.id2label = dict(enumerate(base_labels))
    config.label2id = {label: row for row, label in enumerate(base_labels)}
    base = tiny.save_model(folder / "model", task, config, body_only)
    rows, evaluation = tiny.make_rows(folder / "train", task, 12), tiny.make_rows(folder / "evaluation", task, 6)
    run, paths = tiny.run_config(task, base, rows, evaluation), tiny.paths_in(folder)
    prepare(run, paths)
    prepared = Prepared.load(run, paths)
    auto_class = tiny.AUTO_CLASSES[task]
    return auto_class.from_pretrained(base), auto_class.from_pretrained(prepared.start), prepared


def head(model: Any) -> dict[str, torch.Tensor]:
    """Return the rows of the head's weights, by the label's name."""
    names = model.config.id2label
    return {names[row]: model.classifier.weight[row] for row in names}


@TASKS
def test_the_same_labels_in_another_order_are_the_same_function(tmp_path: Path, task: str, make: Any) -> None:
    base, model, prepared = start(tmp_path, task, make, ("third", "first", "second"))
    assert model.config.id2label == base.config.id2label
    for name, parameter in base.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], parameter), name
    assert set(prepared.known_labels) == set(tiny.LABELS)
    assert prepared.new_parameters == ()


def test_rows_are_encoded_in_the_order_of_the_model(tmp_path: Path) -> None:
    _, model, prepared = start(tmp_path, tiny.SEQUENCE, tiny.bert, ("third", "first", "second"))
    words = (*tiny.MARKS, *tiny.WORDS)
    for row in prepared.train:
        first_word = words[row["input_ids"][0]]
        assert model.config.id2label[row["label"]] == tiny.LABELS[int(first_word[1:]) % len(tiny.LABELS)]


@TASKS
@pytest.mark.parametrize(
    "base_labels",
    [("second", "other", "first"), ("second", "first"), ("other", "second", "more", "first")],
    ids=["as many", "fewer", "more"],
)
def test_known_labels_bring_their_rows_and_the_others_are_drawn(
    tmp_path: Path, task: str, make: Any, base_labels: tuple[str, ...]
) -> None:
    base, model, prepared = start(tmp_path, task, make, base_labels)
    assert model.config.id2label == dict(enumerate(tiny.LABELS))
    before, now = head(base), head(model)
    for label in ("first", "second"):
        assert torch.equal(now[label], before[label])
    assert not any(torch.equal(now["third"], row) for row in before.values())
    assert 0 < float(now["third"].detach().std()) < 0.1
    assert prepared.known_labels == ("first", "second")
    assert "classifier.weight" in prepared.new_parameters


def test_labels_match_whatever_their_case_is_and_have_the_datas_spelling(tmp_path: Path) -> None:
    base, model, prepared = start(tmp_path, tiny.SEQUENCE, tiny.bert, ("THIRD", "First", "SECOND"))
    assert model.config.id2label == {0: "third", 1: "first", 2: "second"}
    assert torch.equal(model.classifier.weight, base.classifier.weight)
    assert len(prepared.known_labels) == 3


def test_a_head_of_other_labels_is_replaced(tmp_path: Path) -> None:
    base, model, prepared = start(tmp_path, tiny.SEQUENCE, tiny.bert, ("a", "b", "c"))
    assert not torch.equal(model.classifier.weight, base.classifier.weight)
    assert prepared.known_labels == ()


def test_a_head_whose_labels_have_no_names_stays_as_it_is(tmp_path: Path) -> None:
    base, model, prepared = start(tmp_path, tiny.SEQUENCE, tiny.bert, ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert torch.equal(model.classifier.weight, base.classifier.weight)
    assert prepared.known_labels == ()


def test_a_body_that_only_names_the_labels_knows_none(tmp_path: Path) -> None:
    _, model, prepared = start(tmp_path, tiny.SEQUENCE, tiny.bert, ("third", "first", "second"), body_only=True)
    assert model.config.id2label[0] == "third"
    assert prepared.known_labels == ()


@pytest.mark.parametrize(
    ("labels", "base", "rows"),
    [
        (["a", "b"], ["b", "a"], {"a": 1, "b": 0}),
        (["a", "A"], ["A", "b"], {"A": 0}),
        (["Yes", "no"], ["yes", "YES", "No"], {"no": 2}),
        ([" a", "b"], ["A", "B "], {" a": 0, "b": 1}),
        (["1", "2"], ["1.0", "2"], {"2": 1}),
    ],
)
def test_names_match_exactly_or_else_without_case_unless_two_would(
    labels: list[str], base: list[str], rows: dict[str, int]
) -> None:
    assert rows_of(labels, base) == rows


def test_labels_keep_their_order_when_they_are_not_all_of_the_base_models() -> None:
    assert in_base_order(["a", "b"], ["b", "a"]) == ("b", "a")
    assert in_base_order(["a", "b"], ["b", "a", "c"]) == ("a", "b")
    assert in_base_order(["a", "b", "c"], ["c", "b"]) == ("a", "b", "c")


def test_a_configuration_that_keeps_the_number_of_labels_in_a_field_gets_it_too() -> None:
    config = small_config("pvt", tiny.VOCABULARY)
    set_labels(config, tiny.LABELS)
    assert (config.num_labels, config.label2id) == (3, {"first": 0, "second": 1, "third": 2})
    assert head_parameters(AutoModelForImageClassification, config, False) == {"classifier.weight", "classifier.bias"}
    assert (config.num_labels, len(config.id2label)) == (3, 3), "counting changes nothing"
