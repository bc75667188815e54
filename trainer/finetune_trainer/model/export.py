"""Saves the trained model in Hugging Face layout, and loads it again.

Every rank takes part: under ZeRO-3, parameters are gathered in groups of limited size and copied to rank 0's main
memory, so that no GPU ever holds the whole model. Rank 0 writes into a temporary sibling folder, syncs it to the disk
and renames it, so that the result's path has either a complete result or none. A failure on rank 0 is reported to all
ranks, so that none waits for it. The workspace's group may read and replace the files, like all files there.

An adapter depends on the run's start checkpoint (the folder `start` beside the result), which has the new head and
vocabulary: `base_model_name_or_path` names that folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune_trainer.contract import RunConfig, Task
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.distributed import Ranks
from finetune_trainer.tasks import task_of

START_FOLDER = "start"
"""The run's folder of the start checkpoint, which has the labels, a new head and the resized vocabulary."""
CARD_FILES = frozenset({"README.md", "loss.png"})
"""The files that describe the model. They are not part of it, so the digest leaves them out."""
FILE_MODE = 0o664
GATHERED_AT_ONCE = 50_000_000
"""The number of elements of sharded parameters that are gathered on every rank at once."""


@dataclass(frozen=True)
class Exported:
    """The saved result. `path` is relative to the workspace."""

    path: str
    digest: str
    parameters: int
    trainable_parameters: int


def export(engine: Any, processor: Any, config: RunConfig, paths: Paths, ranks: Ranks) -> Exported | None:
    """Save the engine's model with its processor. All ranks call this; rank 0 gets the saved result, the others None.

    Raises RuntimeError if rank 0 cannot save; the other ranks raise SiblingError.
    """
    model = engine.module
    parameters = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    state = _gather(model, only_trained=isinstance(model, PeftModel), keep=ranks.rank == 0)

    def saved() -> Exported:
        try:
            digest = _save(model, state, processor, config, paths)
        except Exception as error:
            raise RuntimeError(f"the result could not be saved in {config.output}: {error}") from error
        return Exported(
            path=str(config.output),
            digest=digest,
            parameters=sum(count for count, _ in parameters),
            trainable_parameters=sum(count for count, trained in parameters if trained),
        )

    # The ranks do not wait in a collective, because writing a large model may take longer than its timeout.
    return ranks.first(saved)


def load_result(folder: Path, task: Task, start: Path | None = None, remote_code: bool = False) -> nn.Module:
    """Load the saved model in evaluation mode on the CPU, in its saved precision. One process calls this.

    `folder` is a result or its merged copy. `start` is the adapter's base if it is not in the folder that the adapter
    names. `remote_code` is whether the model may run code that was saved with it.
    """
    # With an active configuration of stage 3, from_pretrained would be a collective and wait forever for other ranks.
    unset_hf_deepspeed_config()
    if not (folder / "adapter_config.json").exists():
        return _load(folder, task, remote_code).eval()
    base = _load(start or _base_of(folder), task, remote_code)
    return PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False, use_safetensors=True).eval()


def _load(folder: Path, task: Task, remote_code: bool) -> nn.Module:
    model: nn.Module = task_of(task).auto_class.from_pretrained(
        folder, dtype="auto", trust_remote_code=remote_code, use_safetensors=True
    )
    return model


def _base_of(adapter: Path) -> Path:
    return Path(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)


def digest_of(folder: Path) -> str:
    """Return the sha256, in hex, over the sorted (name, sha256) of a result's files, without the card."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in CARD_FILES:
            with path.open("rb") as file:
                digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def share(folder: Path) -> None:
    """Let the group read and write the files: safetensors creates them for the owner alone, regardless of the umask."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        # Volumes that define modes as mount options refuse this, and need no change.
        with suppress(OSError):
            path.chmod(FILE_MODE)


# ---- gathering ------------------------------------------------------------------------------------------------------


def _gather(model: nn.Module, only_trained: bool, keep: bool) -> dict[str, torch.Tensor]:
    """Return the whole parameters (or the trained ones) and persistent buffers in main memory. Collective.

    The result is empty unless `keep`.
    """
    state = {}
    persistent = set(model.state_dict().keys())
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad or not only_trained
    ]
    for group in _groups(named):
        with _whole([parameter for _, parameter in group]):
            if keep:
                state.update({name: parameter.detach().to("cpu", copy=True) for name, parameter in group})
    if keep and not only_trained:
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
        state.update({name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers.items()})
    return state


def _groups(named: list[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    group: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in named:
        group.append((name, parameter))
        size += getattr(parameter, "ds_numel", parameter.numel())
        if size >= GATHERED_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _whole(parameters: list[nn.Parameter]) -> Any:
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters)
    return nullcontext()


# ---- saving, on rank 0 ----------------------------------------------------------------------------------------------


def _save(model: Any, state: dict[str, torch.Tensor], processor: Any, config: RunConfig, paths: Paths) -> str:
    """Write all files into a folder beside the result's path, then rename it. Returns the digest."""
    output = paths.output(config)
    temporary = output.with_name(f".{output.name}-{config.attempt}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    start = paths.run(config) / START_FOLDER
    if isinstance(model, PeftModel):
        model.peft_config[model.active_adapter].base_model_name_or_path = str(start)
        # The embeddings are not saved too, because the start checkpoint already has the resized vocabulary.
        model.save_pretrained(str(temporary), state_dict=state, save_embedding_layers=False)
    else:
        model.save_pretrained(str(temporary), state_dict=state)
    processor.save_pretrained(str(temporary))
    digest = digest_of(temporary)
    share(temporary)
    sync(temporary)
    _publish(temporary, output)
    return digest


def sync(folder: Path) -> None:
    """Sync all files of a folder to the disk, before anything relies on them."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(temporary: Path, output: Path) -> None:
    """Rename the folder to the result's path, after removing the result of an earlier attempt.

    An earlier attempt of the run may have published a result and failed afterwards.
    """
    if output.exists():
        outdated = output.with_name(f"{temporary.name}-outdated")
        output.rename(outdated)
        shutil.rmtree(outdated)
    temporary.rename(output)
    descriptor = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
