"""Tokens that a user added to the tokenizer: their rows begin as an average token, are trained and are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from trainer import programs, tiny
from trainer.export_ranks import BATCH_FILE, LOGITS_FILE, train_and_export
from trainer.programs import Stage
from trainer.worlds import Worlds
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig

ADDED = ("<|ask|>", "<|answer|>", "<|zone|>")
NEW = tuple(range(tiny.VOCABULARY, tiny.VOCABULARY + len(ADDED)))
LORA = contract.Lora(rank=4, alpha=8.0, dropout=0.0)
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
TIED, UNTIED = tiny.gpt2, tiny.llama


def base_with_added_tokens(folder: Path, model: Any) -> Path:
    """Save a model whose tokenizer has more tokens than the model has embedding rows."""
    base = tiny.save_model(folder, tiny.CAUSAL_LM, model)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(ADDED), special_tokens=True)
    tokenizer.save_pretrained(base)
    return base


def config_of(folder: Path, model: Any, stage: int, **changes: Any) -> RunConfig:
    """Return the configuration of a run in which every row has all new tokens."""
    base = base_with_added_tokens(folder / "model", model)
    texts = [{"text": f"{ADDED[0]} w{i} w{i + 1} {ADDED[1]} w{2 * i} {ADDED[2]}"} for i in range(16)]
    others = [{"text": f"w59 {row['text']}"} for row in texts]
    rows, evaluation = tiny.write_rows(folder / "train.jsonl", texts), tiny.write_rows(folder / "others.jsonl", others)
    recipe = {"max_steps": 6, "learning_rate": 1e-2, "deepspeed": SHARD_ALL if stage == 3 else None}
    columns = contract.Columns(text="text")
    return tiny.run_config(
        tiny.CAUSAL_LM, base, rows, evaluation, columns=columns, stage=stage, lora=LORA, **{**recipe, **changes}
    )


@pytest.mark.parametrize(("stage", "model"), [(0, TIED), (2, UNTIED), (3, TIED)], ids=["0 tied", "2 untied", "3 tied"])
def test_an_adapter_trains_the_rows_of_new_tokens_at_every_stage(
    worlds: Worlds, tmp_path: Path, stage: int, model: Any
) -> None:
    config, paths = config_of(tmp_path, model(), stage, world=2, merge=True), tiny.paths_in(tmp_path)
    worlds(2).run(train_and_export, config, paths)
    run = paths.run(config)
    start, adapter = load_file(run / "start/model.safetensors"), load_file(run / "output/adapter_model.safetensors")
    embeddings = {"tied": ["transformer.wte"], "untied": ["model.embed_tokens", "lm_head"]}
    for name in embeddings["tied" if model is TIED else "untied"]:
        rows = start[f"{name}.weight"]
        mean = rows[: tiny.VOCABULARY].mean(0)
        for token in NEW:
            torch.testing.assert_close(rows[token], mean)
        trained = adapter.pop(f"base_model.model.{name}.token_adapter.trainable_tokens_delta")
        assert (trained - rows[list(NEW)]).abs().max(dim=1).values.min() > 1e-3
    assert all("lora_" in name for name in adapter)
    batch, logits = torch.load(run / BATCH_FILE), torch.load(run / LOGITS_FILE)
    assert set(NEW) <= set(batch["input_ids"].flatten().tolist())
    load = AutoModelForCausalLM.from_pretrained
    for reloaded in (PeftModel.from_pretrained(load(run / "start"), run / "output"), load(run / "output/merged")):
        with torch.no_grad():
            torch.testing.assert_close(reloaded.eval()(**batch).logits, logits, atol=1e-5, rtol=0)


def test_a_resumed_training_has_the_trained_rows_at_another_stage(worlds: Worlds, tmp_path: Path) -> None:
    whole_config = config_of(tmp_path, UNTIED(), 0, world=2)
    whole = worlds(2).run(programs.part, Stage(whole_config), tiny.paths_in(tmp_path / "whole"))[0]
    paths, parts = tiny.paths_in(tmp_path / "parts"), []
    for attempt, (stage, stop_after) in enumerate(((2, 2), (3, 4), (0, None)), 1):
        changes = {"zero_stage": stage, "attempt": attempt, "deepspeed": SHARD_ALL if stage == 3 else {}}
        config = whole_config.model_copy(update=changes)
        parts.append(worlds(2).run(programs.part, Stage(config, stop_after), paths)[0])
    assert 0 == parts[0].began_after < parts[1].began_after < parts[2].began_after, parts
    assert [loss for part in parts for loss in part.losses] == pytest.approx(whole.losses, rel=1e-4)
