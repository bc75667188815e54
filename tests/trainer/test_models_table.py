"""The table of models: some rows made again, as `make models` makes them, and the committed files."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from models_table.architectures import architectures
from models_table.left_out import LEFT_OUT
from models_table.making import compared, make_row
from models_table.page import PAGE, page
from models_table.results import COLUMNS, Outcome, Results, Row
from models_table.small_config import small_config
from models_table.training import Ending
from trainer import tiny
from trainer.worlds import Worlds

from finetune_trainer.contract import TASKS, Task

SAMPLE: tuple[tuple[Task, str], ...] = (
    ("CausalLM", "gpt2"),
    ("CausalLM", "llama"),
    ("CausalLM", "qwen3"),
    ("CausalLM", "gpt_neox"),
    ("CausalLM", "bert"),
    ("SequenceClassification", "bert"),
    ("SequenceClassification", "roberta"),
    ("SequenceClassification", "distilbert"),
    ("SequenceClassification", "deberta-v2"),
    ("ImageClassification", "vit"),
    ("ImageClassification", "resnet"),
)
"""Architectures that differ widely. BERT is refused as a language model, and ResNet with LoRA."""
NOISE = 0.01
"""The greatest difference, in nats, between the losses on two machines after three steps with a high learning rate."""


@pytest.fixture(scope="module")
def committed() -> dict[tuple[Task, str], Row]:
    return {(row.task, row.architecture): row for row in Results().rows()}


@pytest.mark.parametrize(("task", "architecture"), SAMPLE)
def test_a_row_made_anew_is_the_committed_one(
    task: Task, architecture: str, worlds: Worlds, committed: dict[tuple[Task, str], Row]
) -> None:
    made, expected = make_row(worlds, task, architecture), committed[task, architecture]
    assert (made.model_class, made.parameters) == (expected.model_class, expected.parameters)
    assert made.outcomes.keys() == expected.outcomes.keys()
    for column, outcome in made.outcomes.items():
        other = expected.outcomes[column]
        assert (outcome.ended, outcome.sentence) == (other.ended, other.sentence), column
        for loss, known in ((outcome.loss_before, other.loss_before), (outcome.loss_after, other.loss_after)):
            assert loss == known or math.isclose(loss or 0, known or 0, abs_tol=NOISE), column


def test_no_committed_row_failed(committed: dict[tuple[Task, str], Row]) -> None:
    assert [key for key, row in committed.items() if row.failed] == []


def test_in_the_committed_rows_both_stages_train_the_same_model(committed: dict[tuple[Task, str], Row]) -> None:
    for key, row in committed.items():
        for method in ("Full", "LoRA", "merged"):
            plain, sharded = (row.outcomes[f"{method}, ZeRO {stage}"] for stage in (0, 3))
            if plain.ended == sharded.ended == "trained":
                assert math.isclose(plain.loss_before or 0, sharded.loss_before or 0, abs_tol=2e-4), (key, method)
                assert math.isclose(plain.loss_after or 0, sharded.loss_after or 0, abs_tol=NOISE), (key, method)


def test_every_architecture_has_a_row_or_a_reason(committed: dict[tuple[Task, str], Row]) -> None:
    for task in {task for task, _ in committed}:
        with_row = {architecture for of, architecture in committed if of == task}
        assert with_row.isdisjoint(LEFT_OUT)
        assert set(architectures(task)) - LEFT_OUT.keys() == with_row, task
    assert LEFT_OUT.keys() <= {architecture for task in TASKS for architecture in architectures(task)}


def test_the_document_is_what_the_committed_rows_say() -> None:
    results = Results()
    assert PAGE.read_text() == page(results.rows(), results.versions), "run `make models`"


@pytest.mark.parametrize(
    ("ending", "reloaded", "expected"),
    [
        (Ending(2.0, 1.5), 1.50005, Outcome("trained", 2.0, 1.5)),
        (Ending(2.0, 1.5), 1.6, Outcome("failed", 2.0, 1.5, "the reloaded model's loss is 1.6000")),
        (Ending(2.0, math.nan), math.nan, Outcome("failed", 2.0, ANY, "the reloaded model's loss is nan")),
        (Ending(2.0, 2.0), 2.0, Outcome("failed", 2.0, 2.0, "the training has not changed the model")),
    ],
    ids=["the same", "another loss", "not a number", "nothing learned"],
)
def test_a_result_is_good_if_it_was_trained_and_has_the_same_loss_when_it_is_loaded_anew(
    ending: Ending, reloaded: float, expected: Outcome
) -> None:
    reader = SimpleNamespace(run=lambda *_: [reloaded])
    assert compared(lambda size: reader, ANY, ANY, ending, False) == expected


def test_a_row_that_is_made_again_counts_instead_of_the_older_one(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.begin()
    for parameters, architecture in ((1, "gpt2"), (2, "bert"), (3, "gpt2")):
        results.add(Row("CausalLM", architecture, "Class", parameters, {"Full, ZeRO 0": Outcome("trained", 2.0, 1.0)}))
    results.begin()
    expected = [("bert", 2), ("gpt2", 3)]
    assert [(row.architecture, row.parameters) for row in results.rows()] == expected
    results.tidy()
    assert [(row.architecture, row.parameters) for row in results.rows()] == expected
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_a_refusal_stands_once_below_the_table_whatever_models_it_names() -> None:
    def refused(architecture: str) -> Row:
        sentence = f"model.uri: workspace://models/{architecture}, of type {architecture}, is wrong; use another model"
        return Row("CausalLM", architecture, "Class", 1, dict.fromkeys(COLUMNS, Outcome("refused", sentence=sentence)))

    text = page([refused("one"), refused("two")], {"torch": "1.2"})
    assert text.count("model.uri: URI, of type TYPE, is wrong; use another model") == 1
    assert "| `two` | Class | (1) | (1) | (1) | (1) | (1) | (1) |" in text
    assert "| CausalLM | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 2 |" in text


@pytest.mark.parametrize("architecture", ["llama", "bart", "gemma3", "t5gemma"])
def test_a_configuration_is_small_in_all_its_parts(architecture: str) -> None:
    config = small_config(architecture, tiny.VOCABULARY)
    parts = [getattr(config, name) for name in config.sub_configs] or [config]
    for part in parts:
        assert (part.num_hidden_layers, part.hidden_size) == (2, 32)
        assert getattr(part, "vocab_size", tiny.VOCABULARY) == tiny.VOCABULARY
