"""A training in this process with one rank: the trainer's own steps over a model and rows that are made in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_day.device import wait
from gpu_day.models import LLAMA, Family, auto_class
from gpu_day.step import Day


@dataclass
class Here:
    """The only rank of a world, in this process."""

    day: Day
    ranks: Any = field(init=False)
    paths: Any = field(init=False)

    def __post_init__(self) -> None:
        from finetune_operator.local.ports import free_port
        from gpu_day.runs import one_rank, paths_in

        os.environ.update(one_rank(free_port()), DS_ACCELERATOR=self.day.device)
        from finetune_trainer.ranks.distributed import join

        self.paths = paths_in(self.day.folder / "here")
        config = self.config(LLAMA, stage=0)
        self.ranks = join(config, 0, 1, 0, self.paths.scratch)

    def config(self, family: Family, **options: Any) -> Any:
        """Return a run.json. Nothing is read from the places that it names."""
        from gpu_day.runs import run_config

        nowhere = self.day.folder
        return run_config(family, nowhere, nowhere, nowhere, self.day.device, **options)

    def engine(self, config: Any, family: Family, model_config: Any, prepared: Any) -> Any:
        """Return DeepSpeed's engine around a model that is made on the device, with an adapter if the run has one."""
        import torch

        from finetune_trainer.deepspeed_config import deepspeed_config
        from finetune_trainer.model.engine import initialize
        from finetune_trainer.model.load import with_adapter
        from finetune_trainer.model.start_model import DTYPES

        torch.manual_seed(config.training.seed)
        with torch.device(self.ranks.device):
            model = auto_class(family).from_config(model_config, dtype=DTYPES[config.training.precision])
            if config.lora is not None:
                model = with_adapter(model, config.lora, prepared)
        engine = initialize(config, model, deepspeed_config(config))
        engine.train()
        return engine

    def steps(self, engine: Any, prepared: Any, config: Any) -> Iterator[float]:
        """Do the run's steps and yield the seconds of each, including the device's work."""
        from finetune_trainer.ranks.requests import Requests
        from finetune_trainer.training.steps import steps

        began = time.perf_counter()
        for _ in steps(engine, prepared, config, self.ranks, Requests(config, self.paths, 0)):
            wait()
            yield time.perf_counter() - began
            began = time.perf_counter()


def token_rows(lengths: Sequence[int], vocabulary: int, seed: int = 3) -> Any:
    """Return rows of random tokens for CausalLM, as `prepare` encodes them."""
    import datasets
    import numpy as np

    draw = np.random.RandomState(seed)
    ids = [draw.randint(3, vocabulary, length).tolist() for length in lengths]
    counts = [length - 1 for length in lengths]
    names = [f"made:{number}" for number in range(len(ids))]
    columns = {"id": names, "input_ids": ids, "labels": ids, "count": counts, "length": list(lengths)}
    return datasets.Dataset.from_dict(columns)


def prepared_of(rows: Any, model_config: Any, tokens: int, processor: Any = None, classes: int = 0) -> Any:
    """Return what `prepare` would produce, in memory, with the same rows for training and evaluation."""
    from finetune_trainer.contract import Facts
    from finetune_trainer.model.prepare import Prepared
    from finetune_trainer.tasks import Settings

    settings = Settings(processor, model_config, tokens)
    facts = Facts(training_rows=len(rows), evaluation_rows=len(rows))
    return Prepared(rows, rows, classes, "made", (), Path(), settings, facts)
