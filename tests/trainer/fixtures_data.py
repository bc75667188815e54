"""Rows as users have them, written to files in a folder that stands for the workspace."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image
from support import run_configs

from finetune_trainer import contract
from finetune_trainer.contract import Columns, RunConfig, Source
from finetune_trainer.pod.paths import Paths

CLAUSES = [
    {"clause": f"The tenant pays rent number {i}.", "type": ["rent", "term", "notice"][i % 3]} for i in range(60)
]
COLUMNS = Columns(text="clause", label="type")


def workspace(folder: Path) -> Paths:
    paths = Paths(workspace=folder / "workspace", claims=folder / "claims", scratch=folder / "scratch")
    for path in (paths.workspace, paths.claims, paths.scratch):
        path.mkdir(exist_ok=True)
    return paths


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_pictures(
    folder: Path, per_class: int = 8, classes: tuple[str, ...] = ("cup", "plate"), blue: int = 10
) -> Path:
    """Write pictures, each with a colour of its own."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            Image.new("RGB", (8, 8), (number * 90, i * 20, blue)).save(folder / name / f"{i}.png")
    return folder


def save_arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a folder as `Dataset.save_to_disk` writes it."""
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def dataset(
    uri: str, columns: Columns = COLUMNS, evaluation: str | None = None, fraction: float = 0.3
) -> contract.Dataset:
    return contract.Dataset(
        source=Source(uri=uri),
        columns=columns,
        evaluation_fraction=None if evaluation else fraction,
        evaluation_source=Source(uri=evaluation) if evaluation else None,
    )


def run_config(**changes: Any) -> RunConfig:
    """Return the configuration of a run with one rank; `changes` are fields of RunConfig."""
    return run_configs.run_config(dataset=dataset("workspace://contracts/train.jsonl")).model_copy(update=changes)
