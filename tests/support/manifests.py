"""Manifests of FineTuneJobs for tests: a valid one, and changes to it by dotted path."""

from __future__ import annotations

import copy
from typing import Any

ABSENT = object()
"""The value in a set of changes that removes the field."""


TINY_CLASSIFIER: dict[str, Any] = {
    "spec.model.uri": "workspace://models/bert",
    "spec.dataset": {
        "uri": "workspace://data/rows.jsonl",
        "columns": {"text": "text", "label": "label"},
        "evaluation": {"fraction": 0.2},
    },
}
"""Changes for a job that trains the tiny BERT of `trainer.tiny` on its rows."""


def manifest(name: str = "clauses", **changes: Any) -> dict[str, Any]:
    """Return a valid job for a CPU, with changes such as `{"spec.training.epochs": 2}` given as `**{...}`."""
    base: dict[str, Any] = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "task": "SequenceClassification",
            "model": {"uri": "workspace://models/minilm"},
            "dataset": {
                "uri": "workspace://contracts/train.jsonl",
                "columns": {"text": "clause", "label": "type"},
            },
            "resources": {"gpusPerNode": 0},
        },
    }
    return changed(base, changes)


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the manifest with some fields set or removed."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        if value is ABSENT:
            del target[last]
        else:
            target[last] = value
    return result
