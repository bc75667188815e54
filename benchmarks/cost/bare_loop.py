"""The smallest training: DeepSpeed's engine with the same model, rows and batches, and nothing else.

torchrun starts it. It reads a run.json and what the trainer has prepared for it, and prints the seconds of every step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
from torch.nn.functional import cross_entropy

from finetune_trainer.contract import RunConfig
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.model.load import load_model
from finetune_trainer.model.optimizer import adamw, learning_rate
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.pod.paths import Paths
from finetune_trainer.tasks import task_of
from finetune_trainer.training.steps import sampler_of, total_steps


def main() -> None:
    """Do all steps of the run. Rank 0 prints their times."""
    config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
    paths = Paths(workspace=Path(sys.argv[2]), claims=Path(sys.argv[2]), scratch=Path(sys.argv[2]))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    prepared = Prepared.load(config, paths)
    settings = deepspeed_config(config)
    model = load_model(config, prepared, settings)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model, config), config=settings)
    engine.train()
    sampler = sampler_of(config, prepared)
    task, total = task_of(config.task), total_steps(config, sampler)
    seconds = []
    for number in range(total):
        began = time.monotonic()
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(config.training, number, total)
        micro_batches = sampler.micro_batches(number, rank)
        for micro_batch in micro_batches:
            batch = task.collate(prepared.train[list(micro_batch.rows)], micro_batch.weights, prepared.settings)
            engine.set_gradient_accumulation_boundary(micro_batch is micro_batches[-1])
            logits = engine(**batch.features, **task.arguments).logits
            loss = cross_entropy(*task.aligned(logits, batch.labels))
            engine.backward(loss / len(micro_batches), scale_wrt_gas=False)
        engine.step()
        loss.item()
        seconds.append(time.monotonic() - began)
    if rank == 0:
        sys.stdout.write(json.dumps({"world": world, "seconds": seconds}) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
