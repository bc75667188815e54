"""The functions that the table's ranks run: train a model with the trainer's own loop, and reload its result."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.contract import TASKS, RunConfig
from finetune_trainer.pod.paths import Paths

if TYPE_CHECKING:
    from finetune_trainer.ranks.distributed import Ranks


SECONDS_TO_END = 20
"""Seconds within which the other ranks end after one rank has refused the model; a rank that takes longer counts as
stuck."""


class RefusedAloneError(Exception):
    """One rank has refused the model while another waits for it in a collective operation. The text is the refusal."""


@dataclass(frozen=True)
class Ending:
    """The end of a training on one rank."""

    loss_before: float = math.nan
    """The loss of the start model on the evaluation rows, in nats."""
    loss_after: float = math.nan
    """The loss of the trained model on the same rows, before it was saved, in nats."""
    merge_failure: str | None = None
    """The reason why there is no merged copy of the adapter."""
    refusal: str | None = None
    """The message with which the trainer refused the model."""


def train_model(ranks: Ranks, config: RunConfig, paths: Paths) -> Ending | None:
    """Train as a rank of a pod does, from preparation to the saved result.

    Returns None on a rank that ended because another rank refused, and on all ranks but rank 0 if none refused. Raises
    RefusedAloneError if another rank did not end after this rank's refusal, and any error that is not a refusal.
    """
    from finetune_trainer.errors import TrainingError
    from finetune_trainer.ranks.distributed import SiblingError
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.metrics_files import read_metrics
    from finetune_trainer.training.report import Report

    # Objects of the imported libraries stay alive. Freezing them keeps the loop's garbage collection short.
    gc.collect()
    gc.freeze()
    try:
        with Report(config, paths, ranks.rank, "gloo", ranks.activity) as report:
            result = train(config, paths, ranks, report)
    except TrainingError as error:
        if not _all_ended(ranks):
            raise RefusedAloneError(str(error)) from None
        return Ending(refusal=str(error))
    except SiblingError:
        _all_ended(ranks)
        return None
    if result is None:
        return None
    losses = {r["split"]: r["metrics"]["loss"] for r in read_metrics(paths.run(config)) if "split" in r}
    return Ending(losses["base"], losses["step"], result.merge_failure)


def _all_ended(ranks: Ranks) -> bool:
    """Return whether the other ranks end too.

    In a pod, they would notice that this rank's process has ended.
    """
    ranks.store.add("ended", 1)
    deadline = time.monotonic() + SECONDS_TO_END
    while ranks.store.add("ended", 0) < ranks.world and time.monotonic() < deadline:
        time.sleep(0.01)
    return ranks.store.add("ended", 0) == ranks.world


def reloaded_loss(ranks: Ranks, config: RunConfig, paths: Paths, merged: bool) -> float:
    """Return the mean loss of the saved result on the evaluation rows, in nats.

    It is loaded by transformers and PEFT alone: the model, the adapter on its start checkpoint, or the merged copy. The
    batches are those of the evaluation during training.
    """
    import peft
    import torch
    import transformers

    from finetune_trainer.data.sampler import evaluation_batches
    from finetune_trainer.model.prepare import Prepared
    from finetune_trainer.tasks import task_of

    auto_class: Any = getattr(transformers, TASKS[config.task].auto_class)
    output = paths.output(config)

    def loaded(folder: Path) -> Any:
        model, info = auto_class.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"], f"the saved model lacks {sorted(info['missing_keys'])[:3]}"
        return model

    if config.lora is None or merged:
        model = loaded(output / "merged" if merged else output)
    else:
        model = peft.PeftModel.from_pretrained(loaded(paths.run(config) / "start"), str(output))
    model.eval()
    prepared, task = Prepared.load(config, paths), task_of(config.task)
    total, count = 0.0, 0
    for rank in range(config.world.size):
        batches = evaluation_batches(
            len(prepared.evaluation), config.training.micro_batch_size, config.world.size, rank
        )
        for places in batches:
            batch = task.collate(prepared.evaluation[list(places.rows)], places.weights, prepared.settings)
            with torch.no_grad():
                logits, labels = task.aligned(model(**batch.features, **task.arguments).logits, batch.labels)
            total += float(task.loss_sum(logits, labels))
            count += len(labels)
    return total / count
