"""A run.json for tests: a valid one for one rank on a CPU, and changes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.contract import Checkpointing, Columns, Dataset, RunConfig, Source, Training, World

RECIPE: Mapping[str, Any] = {
    "epochs": 1,
    "global_batch_size": 8,
    "micro_batch_size": 4,
    "sequence_length": 32,
    "learning_rate": 1e-3,
    "schedule": "linear",
    "warmup_fraction": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "seed": 17,
}


def run_config(training: Mapping[str, Any] | None = None, **fields: Any) -> RunConfig:
    """Return a run with some of its fields and some of its recipe changed; `max_steps` replaces the epochs."""
    recipe = {**RECIPE, **(training or {})}
    if "max_steps" in recipe:
        del recipe["epochs"]
    base: dict[str, Any] = {
        "namespace": "legal",
        "job": "clauses",
        "uid": "0f9a",
        "run": 1,
        "attempt": 1,
        "nonce": "n",
        "folder": "legal/clauses/runs/1-0f9a",
        "task": "SequenceClassification",
        "model": Source(uri="workspace://models/base"),
        "dataset": Dataset(
            source=Source(uri="workspace://contracts/train.jsonl"),
            columns=Columns(text="clause", label="type"),
            evaluation_fraction=0.3,
        ),
        "zero_stage": 0,
        "world": World(nodes=1, processes_per_node=1, device="cpu"),
        "metrics": ("accuracy", "f1"),
        "checkpoint": Checkpointing(every_seconds=3600, keep=3),
    }
    return RunConfig(**{**base, "training": Training(**recipe), **fields})
