"""Loss and gradient norm of every step equal those of Hugging Face's Trainer; a step in bf16 has an exact gradient.

The Trainer is right for Llama and ViT. With gradient accumulation, it reports too high a loss for BERT unless its
option for models without loss arguments is set. For GPT-2, it counts one token too many in each row, so GPT-2 is not
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from trainer import programs, tiny
from trainer.accumulation_ranks import gradients_of_a_step
from trainer.training.test_parity import CASES, GLOBAL_BATCH, LORA, STAGES, Layout, Trainings
from trainer.worlds import Worlds
from transformers import Trainer, TrainingArguments

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.model.optimizer import learning_rate
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.tasks import task_of
from finetune_trainer.training.steps import sampler_of, total_steps

MICRO_BATCH = 6
ROUNDING_OF_BF16 = 2**-8
"""The greatest relative error of one number that is rounded to bf16."""


class OrderedRows(Dataset[dict[str, Any]]):
    """The rows of all steps in this project's order. Here, the last step of an epoch is as long as the others."""

    def __init__(self, prepared: Prepared, config: RunConfig) -> None:
        sampler = sampler_of(config, prepared)
        self._rows = prepared.train
        self._order = [int(row) for step in range(total_steps(config, sampler)) for row in sampler.items(step)]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self._rows[self._order[place]]


class Oracle(Trainer):
    """Hugging Face's Trainer with this project's order and learning rates. It records losses and gradient norms."""

    def __init__(self, config: RunConfig, prepared: Prepared, folder: Path) -> None:
        self._config = config
        task, settings = task_of(config.task), prepared.settings

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = task.collate({key: [row[key] for row in rows] for key in rows[0]}, [1] * len(rows), settings)
            return {**batch.features, "labels": batch.labels}

        training = config.training
        super().__init__(
            model=tiny.AUTO_CLASSES[config.task].from_pretrained(prepared.start, dtype=torch.float32),
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=training.max_steps,
                per_device_train_batch_size=MICRO_BATCH,
                gradient_accumulation_steps=GLOBAL_BATCH // MICRO_BATCH,
                learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
                max_grad_norm=training.max_grad_norm,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                remove_unused_columns=False,
                disable_tqdm=True,
            ),
            train_dataset=OrderedRows(prepared, config),
            data_collator=collate,
        )
        if config.task == tiny.SEQUENCE:
            self.model_accepts_loss_kwargs = False
        self.losses = [0.0]
        self.grad_norms: list[float] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        training = self._config.training
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,
            lambda step: learning_rate(training, step, num_training_steps) / training.learning_rate,
        )
        return self.lr_scheduler

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **options)
        self.losses[-1] += float(loss)
        return loss

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        if "grad_norm" in logs:
            self.grad_norms.append(float(logs["grad_norm"]))
            self.losses.append(0.0)
        super().log(logs, *arguments, **options)


@pytest.mark.parametrize(("name", "schedule"), [("llama", "linear"), ("vit", "cosine"), ("bert", "linear")])
def test_every_step_is_that_of_the_trainer(
    name: str, schedule: str, worlds: Worlds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    trainings = Trainings(worlds, tmp_path, case, rows=3 * GLOBAL_BATCH)
    config = trainings.prepared(Layout(2, MICRO_BATCH), 2, schedule=schedule)
    prepared = Prepared.load(config, trainings.paths)
    ours = worlds(2).run(programs.curve, config, trainings.paths)[0]
    oracle = Oracle(config, prepared, tmp_path / "oracle")
    oracle.train()
    losses = [abs(a - b) for a, b in zip(ours.losses, oracle.losses[:-1], strict=True)]
    norms = [abs(a - b) / b for a, b in zip(ours.grad_norms, oracle.grad_norms, strict=True)]
    record_property("max loss difference", f"{max(losses):.1e}")
    record_property("max relative gradient norm difference", f"{max(norms):.1e}")
    print(f"{name} {schedule}: loss {max(losses):.1e}, gradient norm {max(norms):.1e}")
    assert len(losses) == 20
    assert max(losses) <= 1e-4
    assert max(norms) <= 1e-3


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", STAGES)
def test_sixty_four_micro_batches_in_bf16_are_added_up_in_fp32(
    stage: int,
    lora: contract.Lora | None,
    worlds: Worlds,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Stages 0 and 1 also reduce in fp32, once in each step; stages 2 and 3 reduce each micro-batch in bf16."""
    trainings = Trainings(worlds, tmp_path, CASES["llama"], rows=128)
    recipe = {"global_batch_size": 128, "max_steps": 1, "warmup_fraction": 0.0, "max_grad_norm": 0.0}
    config = trainings.prepared(Layout(2, 1), stage, precision="bf16", lora=lora, **recipe)
    given, exact = worlds(2).run(gradients_of_a_step, config, trainings.paths)[0]
    assert given.keys() == exact.keys()
    whole = torch.cat([gradient.flatten() for gradient in exact.values()])
    error = float((torch.cat([given[name].flatten() for name in exact]) - whole).norm() / whole.norm())
    record_property("relative error of the gradient", f"{error:.1e}")
    assert error < (1e-6 if stage < 2 else ROUNDING_OF_BF16)
