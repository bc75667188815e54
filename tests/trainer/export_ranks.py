"""Trains the cases of test_export.py for a few steps and exports them; run as one process of a world.

`python export_ranks.py FOLDER CASE...` with torchrun's environment. Rank 0 leaves the trained model's logits on a
fixed batch beside each run's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from trainer.fixtures_data import workspace

from finetune_trainer.contract import RunConfig
from finetune_trainer.distributed import Ranks, join
from finetune_trainer.export import export
from finetune_trainer.loop import load_engine, steps
from finetune_trainer.paths import Paths
from finetune_trainer.prepare import Prepared, prepare

LOGITS_FILE = "logits.pt"
BATCH_FILE = "batch.pt"


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    paths = workspace(folder)
    ranks: Ranks | None = None
    for name in names:
        config = RunConfig.model_validate_json((folder / f"{name}.json").read_text())
        if ranks is None:
            rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            ranks = join(config, rank, world, rank, paths.scratch)
        train_and_export(config, paths, ranks)


def train_and_export(config: RunConfig, paths: Paths, ranks: Ranks) -> None:
    ranks.first(lambda: prepare(config, paths))
    prepared = ranks.every(lambda: Prepared.load(config, paths))
    engine = load_engine(config, prepared, ranks)
    losses = [step.loss for step in steps(engine, prepared, config, ranks)]
    assert all(loss == loss for loss in losses), losses
    engine.eval()
    with torch.no_grad():
        logits = engine(**fixed_batch(config, prepared)).logits
    if ranks.rank == 0:
        torch.save(logits, paths.run(config) / LOGITS_FILE)
        torch.save(fixed_batch(config, prepared), paths.run(config) / BATCH_FILE)
    exported = export(engine, prepared.settings.processor, config, paths)
    if ranks.rank == 0:
        (paths.run(config) / "exported.txt").write_text(f"{exported.trainable_parameters} {exported.parameters}")
    engine.destroy()


def fixed_batch(config: RunConfig, prepared: Prepared) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if config.task == "ImageClassification":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    tokens = torch.randint(5, 60, (2, 9), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
