"""The trainings of one architecture: what is asked of the trainer, and how each of them ended."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from support import run_configs
from trainer import tiny

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig, Task

STEPS, ROWS, EVALUATION_ROWS = 3, 24, 8
RANKS = 2


class Training(NamedTuple):
    """One training of a model. That of an adapter also makes the merged copy."""

    method: Literal["Full", "LoRA"]
    stage: Literal[0, 3]

    @property
    def folder(self) -> str:
        """Of the run, relative to the workspace."""
        return f"runs/{self.method.lower()}-{self.stage}"

    @property
    def columns(self) -> tuple[str, ...]:
        """What it saves."""
        return ("Full",) if self.method == "Full" else ("LoRA", "merged")


TRAININGS = tuple(Training(method, stage) for method in ("Full", "LoRA") for stage in (0, 3))


def write_rows(task: Task, workspace: Path) -> None:
    """Training rows, and evaluation rows that are different ones."""
    tiny.make_rows(workspace / "data" / "training", task, ROWS)
    tiny.make_rows(workspace / "data" / "evaluation", task, EVALUATION_ROWS)


def run_config(task: Task, architecture: str, training: Training) -> RunConfig:
    """Three steps on two ranks. The learning rate is high, so that every weight changes visibly."""
    _, columns, name = tiny.DATA[task]
    return run_configs.run_config(
        {
            "max_steps": STEPS,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "sequence_length": 64,
            "learning_rate": 1e-2,
            "warmup_fraction": 0.0,
        },
        folder=training.folder,
        task=task,
        model=contract.Source(uri=f"workspace://models/{architecture}"),
        dataset=contract.Dataset(
            source=contract.Source(uri=f"workspace://data/training/{name}"),
            columns=columns,
            evaluation_source=contract.Source(uri=f"workspace://data/evaluation/{name}"),
        ),
        lora=contract.Lora(rank=4, alpha=32.0, dropout=0.0) if training.method == "LoRA" else None,
        merge=training.method == "LoRA",
        zero_stage=training.stage,
        world=contract.World(nodes=1, processes_per_node=RANKS, device="cpu"),
        metrics=tiny.METRICS[task],
        evaluate_every_steps=STEPS,
    )
