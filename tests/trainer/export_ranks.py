"""What every rank does for a case of test_export.py: train a few steps, save the model's logits, export."""

from __future__ import annotations

import torch

from finetune_trainer.contract import RunConfig
from finetune_trainer.model.engine import load_engine
from finetune_trainer.model.export import export
from finetune_trainer.model.merge import add_merged_copy
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.ranks.requests import Requests
from finetune_trainer.training.steps import steps

LOGITS_FILE = "logits.pt"
BATCH_FILE = "batch.pt"


def train_and_export(ranks: Ranks, config: RunConfig, paths: Paths) -> tuple[int, int] | None:
    """Train and export, and return the numbers of trained and of all parameters on rank 0.

    The logits of the trained model are saved in the run's folder.
    """
    ranks.first(lambda: prepare(config, paths))
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    engine = load_engine(config, prepared, ranks)
    requests = Requests(config, paths, ranks.rank)
    assert not any(step.skipped for step in steps(engine, prepared, config, ranks, requests))
    engine.eval()
    with torch.no_grad():
        logits = engine(**fixed_batch(config, prepared.new_tokens)).logits
    if ranks.rank == 0:
        torch.save(logits, paths.run(config) / LOGITS_FILE)
        torch.save(fixed_batch(config, prepared.new_tokens), paths.run(config) / BATCH_FILE)
    exported = export(engine, prepared.settings.processor, config, paths, ranks)
    if config.merge:
        merged = ranks.first(lambda: add_merged_copy(prepared, config, paths, ranks))
        assert merged is None or merged.failure is None, merged
    engine.destroy()
    return exported and (exported.trainable_parameters, exported.parameters)


def fixed_batch(config: RunConfig, new_tokens: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Return two inputs; the first begins with the new tokens."""
    generator = torch.Generator().manual_seed(5)
    if config.task == "ImageClassification":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    tokens = torch.randint(5, 60, (2, 9), generator=generator)
    tokens[0, : len(new_tokens)] = torch.tensor(new_tokens)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
