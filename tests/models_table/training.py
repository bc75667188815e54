"""What the ranks of the table do: train one model by the trainer's own loop, and read its result in plain libraries."""

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
"""After one rank has refused the model, the others end within so many seconds, or wait for it for ever."""


class RefusedAloneError(Exception):
    """One rank has refused the model, and another waits for it in a collective. The text is the sentence."""


@dataclass(frozen=True)
class Ending:
    """How a training ended on one rank."""

    loss_before: float = math.nan
    """Of the start model on the evaluation rows, in nats."""
    loss_after: float = math.nan
    """Of the trained model, before it was saved."""
    merge_failure: str | None = None
    """Why there is no merged copy of the adapter."""
    refusal: str | None = None
    """The sentence with which the trainer refused the model."""


def train_model(ranks: Ranks, config: RunConfig, paths: Paths) -> Ending | None:
    """Train as a pod's rank does, from preparation to the saved result. None on a rank that ended because another one
    refused, and on all but rank 0 when none did. Raises whatever is no refusal."""
    from finetune_trainer.errors import TrainingError
    from finetune_trainer.ranks.distributed import SiblingError
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.metrics_files import read_metrics
    from finetune_trainer.training.report import Report

    # What libraries have made lives on. The loop looks for garbage twice, and need not look through all of it.
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
    """Whether the other ranks end too. In a pod they would find that this one's process is gone."""
    ranks.store.add("ended", 1)
    deadline = time.monotonic() + SECONDS_TO_END
    while ranks.store.add("ended", 0) < ranks.world and time.monotonic() < deadline:
        time.sleep(0.01)
    return ranks.store.add("ended", 0) == ranks.world


def reloaded_loss(ranks: Ranks, config: RunConfig, paths: Paths, merged: bool) -> float:
    """The mean loss of the saved result on the evaluation rows, loaded by transformers and PEFT alone: the model, the
    adapter on its start checkpoint, or the merged copy. The rows are in the same batches as in training."""
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
