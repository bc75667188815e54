"""The trainings of one architecture: their configurations and how they ended."""

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
    """One training of a model. The training of an adapter also makes the merged copy."""

    method: Literal["Full", "LoRA"]
    stage: Literal[0, 3]

    @property
    def folder(self) -> str:
        """The folder of the run, relative to the workspace."""
        return f"runs/{self.method.lower()}-{self.stage}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns for which the training saves a result."""
        return ("Full",) if self.method == "Full" else ("LoRA", "merged")


TRAININGS = tuple(Training(method, stage) for method in ("Full", "LoRA") for stage in (0, 3))


def write_rows(task: Task, workspace: Path) -> None:
    """Write training rows and different evaluation rows."""
    tiny.make_rows(workspace / "data" / "training", task, ROWS)
    tiny.make_rows(workspace / "data" / "evaluation", task, EVALUATION_ROWS)


def run_config(task: Task, architecture: str, training: Training) -> RunConfig:
    """Return a run of three steps on two ranks. Its learning rate is high, so that every weight changes visibly."""
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
