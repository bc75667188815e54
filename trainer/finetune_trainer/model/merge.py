"""A second copy of a LoRA result, with the adapter merged into its base.

It is made after the adapter is published, beside it, and moved into the result by one rename. So whatever goes wrong
with it (PEFT cannot merge a layer, the disk is full, the copy answers otherwise) costs the copy alone: its files are
removed, the adapter stays, and the reason is reported with the result.

The copy is judged by its mean loss on evaluation rows, as read back from the disk. Logits are a poor measure: in a
mixture of experts, a router whose scores are nearly equal picks another expert after the slightest rounding, and the
logits of that token change as a whole, while the model is as good as before.
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
"""Of the result."""
COMPARED_ROWS = 64
"""Of the evaluation rows, at most, the first."""
MERGE_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
"""Greatest difference of the mean losses, in nats, by the run's precision.

In bf16, merging rounds every changed weight to eight bits. With trained adapters of small Llama and BERT models, that
changed the loss by at most 0.002 nats on 8 rows and 0.0006 on 64; of Mixtral models by 0.015 and 0.004, though their
logits changed by up to 14 %. In fp32 the greatest change was 3e-7. Without its adapter, the loss of such a model is
higher by 0.1 to 0.6 nats."""
MAX_REASON = 200
"""Characters of another library's error in the sentence about it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """What came of merging: either a copy and the new digest of the whole result, or one sentence why there is none."""

    path: str | None = None
    """Relative to the workspace."""
    digest: str | None = None
    failure: str | None = None


class _DiffersError(Exception):
    """The copy does not answer as the adapter does. The text is one sentence."""


def add_merged_copy(prepared: Prepared, config: RunConfig, paths: Paths, ranks: Ranks) -> Merged:
    """Merge the published adapter and add the copy to the result. One rank calls this, while the others wait.

    No error in merging is raised; `Merged.failure` says what it was."""
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
    """Merge what was saved, not what is in memory. One of the two models is in memory at a time."""
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
    """In nats, over the first evaluation rows; 0 if nothing in them counts."""
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
