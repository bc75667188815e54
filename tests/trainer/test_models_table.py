"""The table of models: some of its rows made anew, as `make models` makes them, and what is committed of it."""

from __future__ import annotations

import math

import pytest
from models_table.architectures import architectures
from models_table.left_out import LEFT_OUT
from models_table.making import make_row
from models_table.page import PAGE, page
from models_table.results import Results, Row
from models_table.small_config import small_config
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
"""Unlike architectures. The first one named BERT is refused; ResNet is refused with LoRA."""
NOISE = 0.01
"""Nats by which losses of two machines may differ after three steps at a high learning rate."""


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


def test_every_architecture_has_a_row_or_a_reason(committed: dict[tuple[Task, str], Row]) -> None:
    for task in {task for task, _ in committed}:
        with_row = {architecture for of, architecture in committed if of == task}
        assert with_row.isdisjoint(LEFT_OUT)
        assert set(architectures(task)) - LEFT_OUT.keys() == with_row, task
    assert LEFT_OUT.keys() <= {architecture for task in TASKS for architecture in architectures(task)}


def test_the_document_is_what_the_committed_rows_say() -> None:
    results = Results()
    assert PAGE.read_text() == page(results.rows(), results.versions), "run `make models`"


@pytest.mark.parametrize("architecture", ["llama", "bart", "gemma3", "swin"])
def test_a_configuration_is_small_in_all_its_parts(architecture: str) -> None:
    config = small_config(architecture, tiny.VOCABULARY)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        layers = getattr(part, "num_hidden_layers", None) or len(part.depths)
        assert layers <= 2
        assert part.hidden_size <= 32
        assert getattr(part, "vocab_size", tiny.VOCABULARY) == tiny.VOCABULARY
