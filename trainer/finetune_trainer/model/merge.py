"""Adds a copy of a LoRA result in which the adapter is merged into its base.

The copy is made beside the published adapter, and moved into the result by one rename. If merging fails (PEFT cannot
merge a layer, the disk is full, the copy answers differently), only the copy is lost: its files are removed, the
adapter remains, and the reason is reported with the result.

The copy is compared by its mean loss on evaluation rows, after it was read back from the disk. Logits would be a poor
measure: in a mixture of experts, a router with nearly equal scores selects another expert after the slightest rounding,
and all logits of that token change, although the model is as good as before.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune_trainer.contract import RunConfig
from finetune_trainer.data.sampler import evaluation_batches
from finetune_trainer.model.evaluate import load_batch
from finetune_trainer.model.export import digest_of, load_result, share, sync
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.model.refusal import in_one_line
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks import task_of

MERGED_FOLDER = "merged"
"""The folder of the merged copy, inside the result."""
COMPARED_ROWS = 64
"""The greatest number of evaluation rows that are compared; they are the first ones."""
MERGE_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
"""The greatest difference of the mean losses, in nats, for each precision of a run.

In bf16, merging rounds every changed weight to eight bits. With trained adapters of small Llama and BERT models, this
changed the loss by at most 0.002 nats on 8 rows and 0.0006 nats on 64 rows; with Mixtral models by at most 0.015 and
0.004 nats, although their logits changed by up to 14 %. In fp32 the greatest change was 3e-7 nats. Without its adapter,
such a model has a loss that is higher by 0.1 to 0.6 nats.
"""
MAX_REASON = 200
"""The greatest number of characters that a message quotes of another library's error."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """The outcome of merging: either a copy and the new digest of the whole result, or the reason for its failure."""

    path: str | None = None
    """The folder of the copy, relative to the workspace."""
    digest: str | None = None
    failure: str | None = None


class _DiffersError(Exception):
    """The copy does not answer like the adapter. The message is one sentence."""


def add_merged_copy(prepared: Prepared, config: RunConfig, paths: Paths, ranks: Ranks) -> Merged:
    """Merge the published adapter and add the copy to the result. One rank calls this, while the others wait.

    Errors are not raised; `Merged.failure` describes them.
    """
    output = paths.output(config)
    unfinished = output.with_name(f".{MERGED_FOLDER}-{config.attempt}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_and_compare(unfinished, output, prepared, config, ranks)
        share(unfinished)
        sync(unfinished)
        unfinished.rename(output / MERGED_FOLDER)
        sync(output)
        return Merged(path=str(config.output / MERGED_FOLDER), digest=digest_of(output))
    except Exception as error:
        for folder in (unfinished, output / MERGED_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        failure = _sentence(error)
        logger.warning("%s", failure)
        return Merged(failure=failure)


def _sentence(error: Exception) -> str:
    if isinstance(error, _DiffersError):
        reason = str(error)
    else:
        words = in_one_line(error, MAX_REASON)
        reason = f"the adapter could not be merged into its base ({type(error).__name__}: {words})"
    return f"output.merge: {reason}; the result is the adapter alone"


def _write_and_compare(folder: Path, output: Path, prepared: Prepared, config: RunConfig, ranks: Ranks) -> None:
    """Merge the saved adapter, not the one in memory, and compare the losses.

    Only one of the two models is in memory at a time. Raises _DiffersError if the losses differ.
    """
    model: Any = load_result(output, config.task, prepared.start, config.allow_remote_code).to(ranks.device)
    expected = _mean_loss(model, prepared, config, ranks)
    model = model.merge_and_unload()
    model.save_pretrained(str(folder))
    prepared.settings.processor.save_pretrained(str(folder))
    del model
    merged = load_result(folder, config.task, remote_code=config.allow_remote_code).to(ranks.device)
    loss = _mean_loss(merged, prepared, config, ranks)
    tolerance = MERGE_TOLERANCE[config.training.precision]
    if not abs(loss - expected) <= tolerance:
        raise _DiffersError(
            f"the merged copy's loss on {min(COMPARED_ROWS, len(prepared.evaluation))} evaluation rows is {loss:.4g}, "
            f"but the adapter's is {expected:.4g}, and the two may differ by {tolerance:g} at most"
        )


@torch.no_grad()
def _mean_loss(model: nn.Module, prepared: Prepared, config: RunConfig, ranks: Ranks) -> float:
    """Return the mean loss over the first evaluation rows, in nats; 0 if no label counts in them."""
    task = task_of(config.task)
    loss_sum, count = 0.0, 0
    rows = min(COMPARED_ROWS, len(prepared.evaluation))
    for micro_batch in evaluation_batches(rows, config.training.micro_batch_size, world=1, rank=0):
        batch = load_batch(prepared.evaluation, micro_batch, task, prepared, ranks.device, config)
        logits, labels = task.aligned(model(**batch.features, **task.arguments).logits, batch.labels)
        loss_sum += float(task.loss_sum(logits, labels))
        count += len(labels)
        ranks.activity.tick()
    return loss_sum / count if count else 0.0
