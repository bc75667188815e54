"""The model card describes the training, the results and the use of a model, and contains no text of the data."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from PIL import Image
from trainer.base_models import save_model
from trainer.fixtures_data import CLAUSES, run_config, workspace, write_jsonl

from finetune_trainer.checkpoint.files import Position
from finetune_trainer.contract import Lora, Result, RunConfig, Source
from finetune_trainer.model.export import export
from finetune_trainer.model.load import load_model
from finetune_trainer.model.merge import add_merged_copy
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.activity import Activity
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.ranks.requests import Asked
from finetune_trainer.training.card import write_card
from finetune_trainer.training.metrics_files import read_metrics
from finetune_trainer.training.report import Report
from finetune_trainer.training.steps import Step

RESULT = Result(
    path="legal/clauses/runs/1-0f9a/output",
    digest="ab" * 32,
    base_metrics={"loss": 1.1, "accuracy": 0.3333},
    metrics={"loss": 0.2, "accuracy": 0.91236},
    step=6,
    trainable_parameters=1234,
    parameters=56789,
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def card(paths: Paths, result: Result = RESULT, **changes: Any) -> tuple[dict[str, Any], str]:
    """Return the YAML header and the text of the card of a run that was prepared and reported, but not trained."""
    config = run_config(model=Source(uri="workspace://models/bert"), **changes)
    clauses = [{**row, "clause": f"{row['clause']} CONFIDENTIAL"} for row in CLAUSES]
    write_jsonl(paths.workspace / "contracts/train.jsonl", clauses)
    save_model("bert-with-head", paths.workspace / "models/bert")
    prepare(config, paths)
    with Report(config, paths, 0, "gloo", Activity()) as report:
        report.begin()
        report.evaluation(0, 0.0, RESULT.base_metrics, "base")
        for step in range(1, 7):
            done = Step(step, 1.2 / step, 1.0, 1e-3, 50, 8, Asked(stop=False, save=False, make_way=False))
            report.step(done, 6, Position(step=step, epoch=step / 6, evaluated=True), None)
    folder = paths.output(config)
    folder.mkdir(exist_ok=True)
    write_card(folder, config, Prepared.load(config, paths), read_metrics(paths.run(config)), result)
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def code_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)


def test_the_header_is_what_the_hub_reads(paths: Paths) -> None:
    header, _ = card(paths, lora=Lora(rank=8, alpha=16, dropout=0.0))
    assert header == {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["finetune-operator", "deepspeed", "lora"],
        "metrics": ["accuracy", "f1"],
    }


def test_the_metrics_before_and_after_and_the_recipe_are_told(paths: Paths) -> None:
    _, text = card(paths)
    assert "| accuracy | 0.3333 | 0.9124 |" in text
    for told in (
        "`workspace://models/bert`",
        "`workspace://contracts/train.jsonl`",
        "| learning rate | 0.001, linear |",
        "56,789, of which 1,234 were trained",
        "`notice`, `rent`, `term`",
        "| nodes x processes | 1 x 1, ZeRO stage 0 |",
        "0.3 of the rows, chosen by their content",
        "ab" * 32,
    ):
        assert told in text
    assert re.search(r"data digest \(sha256\) \| `[0-9a-f]{64}`", text)


def test_new_tokens_are_counted(paths: Paths) -> None:
    _, text = card(paths)
    assert "new tokens" not in text
    prepared = dataclasses.replace(Prepared.load(run_config(), paths), new_tokens=(64, 65, 66, 67))
    write_card(paths.output(run_config()), run_config(), prepared, [], RESULT)
    assert "| new tokens | 4, their embeddings are trained |" in (paths.output(run_config()) / "README.md").read_text()


def test_the_loss_curve_is_a_picture(paths: Paths) -> None:
    _, text = card(paths)
    assert "](loss.png)" in text
    with Image.open(paths.output(run_config()) / "loss.png") as picture:
        width, height = picture.size
        assert width > height > 300
        assert len(picture.convert("RGB").getcolors(1 << 16) or ()) > 3


def test_no_row_is_quoted(paths: Paths) -> None:
    card(paths)
    for file in paths.output(run_config()).iterdir():
        assert b"CONFIDENTIAL" not in file.read_bytes()
        assert b"tenant" not in file.read_bytes()


@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8, dropout=0.0)], ids=["full", "adapter and merged"])
def test_the_lines_that_load_the_model_do_so(
    lora: Lora | None, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = card(paths, lora=lora, merge=lora is not None)
    config = run_config(lora=lora, merge=lora is not None)
    save_untrained(config, paths)
    paths.run(config).rename(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    blocks = code_blocks(text)
    assert len(blocks) == (1 if lora is None else 2)
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        logits = names["model"](**names["processor"]("word1 word2", return_tensors="pt")).logits
        assert logits.shape == (1, 3)


def test_a_missing_merged_copy_is_explained_and_nothing_says_how_to_load_it(paths: Paths) -> None:
    unmerged = RESULT.model_copy(update={"merge_failure": "output.merge: the disk is full"})
    _, text = card(paths, unmerged, lora=Lora(rank=4, alpha=8, dropout=0.0), merge=True)
    assert "There is no merged copy. output.merge: the disk is full." in text
    assert "output/merged" not in text


def save_untrained(config: RunConfig, paths: Paths) -> None:
    """Export the start model without training it."""
    prepared = Prepared.load(config, paths)
    engine = SimpleNamespace(module=load_model(config, prepared, {}))
    ranks = Ranks(dist.HashStore(), rank=0, world=1, scratch=paths.scratch, device=torch.device("cpu"))
    export(engine, prepared.settings.processor, config, paths, ranks)
    if config.merge:
        assert add_merged_copy(prepared, config, paths, ranks).path
