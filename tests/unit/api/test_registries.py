"""Each task and each method has one entry, which has everything that its readers need."""

from __future__ import annotations

from typing import get_args

import pytest

from finetune_operator.api.v1alpha1 import Columns, Method
from finetune_operator.api.validation import RULES
from finetune_trainer import contract
from finetune_trainer.contract import METHODS, TASKS, TaskEntry


def test_every_task_of_the_contract_has_an_entry() -> None:
    assert tuple(TASKS) == get_args(contract.Task)


def test_every_method_of_the_api_has_an_entry() -> None:
    assert tuple(METHODS) == get_args(Method.model_fields["type"].annotation)


@pytest.mark.parametrize("entry", TASKS.values(), ids=list(TASKS))
def test_an_entry_names_columns_and_metrics_that_exist(entry: TaskEntry) -> None:
    named = {name for names in entry.columns for name in names}
    assert named <= set(Columns.model_fields)
    assert all(name in entry.columns_needed for name in named)
    assert set(entry.metrics) <= set(get_args(contract.Metric))
    assert entry.metrics


@pytest.mark.parametrize("task", TASKS)
def test_the_rules_know_every_task(task: str) -> None:
    of_task = [rule.field for rule in RULES if f"self.task != '{task}'" in rule.cel]
    assert {"dataset.columns", "evaluate.metrics"} <= set(of_task)
