"""(h) The cost of a checkpoint by part and ZeRO stage: gather, copy, serialise, hash, write; a whole save, a resume."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from gpu_day.device import wait
from gpu_day.models import LLAMA, TINY, config_of
from gpu_day.step import Column, Day, Figures, Step, number

SHAPE = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "intermediate_size": 2816}
"""A model of 52 million parameters, whose master weights and moments are 0.6 GB."""
TOKENS = 64


def measure(day: Day) -> None:
    """Measure all ZeRO stages."""
    from gpu_day.here import Here

    here = Here(day)
    for name in day.rows:
        with day.row(name) as figures:
            figures.update(_measure(day, here, int(name.removeprefix("ZeRO-"))))


def _measure(day: Day, here: Any, stage: int) -> Figures:
    from finetune_trainer.checkpoint.checkpoints import Checkpoints
    from finetune_trainer.checkpoint.files import Position
    from finetune_trainer.contract import CheckpointReport
    from gpu_day.here import prepared_of, token_rows

    model_config = config_of(LLAMA, SHAPE if day.on_gpu else TINY)
    train = token_rows([TOKENS] * 8, model_config.vocab_size)
    prepared = prepared_of(train, model_config, TOKENS)
    config = here.config(LLAMA, stage=stage, max_steps=1, sequence_length=TOKENS)
    config = config.model_copy(update={"folder": f"runs/zero-{stage}"})
    engine = here.engine(config, LLAMA, model_config, prepared)
    list(here.steps(engine, prepared, config))
    figures = _parts(engine, day.folder)
    checkpoints = Checkpoints(config, here.paths, prepared, here.ranks, 1)
    told = checkpoints.save(engine, Position(step=1, epoch=1.0, evaluated=True), {}, "")
    if not isinstance(told, CheckpointReport):
        raise RuntimeError(told)
    began = time.perf_counter()
    if checkpoints.resume(engine) is None:
        raise RuntimeError("the checkpoint that was saved is not found")
    wait()
    figures["save"] = told.bytes / told.save_seconds / 1e9
    figures["resume"] = told.bytes / (time.perf_counter() - began) / 1e9
    engine.destroy()
    return figures


def _parts(engine: Any, folder: Path) -> Figures:
    """Return GB/s for each part of a save. The parts run one after the other."""
    from safetensors.torch import save as to_bytes

    from finetune_trainer.checkpoint import engine_state
    from finetune_trainer.checkpoint.checkpoints import FILE_BYTES

    seconds: dict[str, float] = defaultdict(float)
    moved = pending_bytes = 0
    pending: dict[str, Any] = {}

    def part(name: str, action: Any) -> Any:
        began = time.perf_counter()
        result = action()
        wait()
        seconds[name] += time.perf_counter() - began
        return result

    def flush() -> None:
        content = part("serialise", lambda: to_bytes(pending))
        part("hash", lambda: hashlib.sha256(content).hexdigest())
        part("write", lambda: _write(folder / "part", content))
        pending.clear()

    states = engine_state.read(engine)
    while (state := part("gather", lambda: next(states, None))) is not None:
        name, tensors = state
        for kind, tensor in tensors.items():
            pending[f"{kind}/{name}"] = part("copy", lambda tensor=tensor: tensor.detach().to("cpu", copy=True))
            size = tensor.numel() * tensor.element_size()
            moved, pending_bytes = moved + size, pending_bytes + size
        if pending_bytes >= FILE_BYTES:
            flush()
            pending_bytes = 0
    flush()
    return {"bytes": moved, **{name: moved / spent / 1e9 for name, spent in seconds.items()}}


def _write(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


STEP = Step(
    letter="h",
    name="checkpoints",
    title="A checkpoint of 52M trained parameters by part, in GB/s",
    seconds=45,
    rows=tuple(f"ZeRO-{stage}" for stage in (0, 1, 2, 3)),
    columns=(
        Column("bytes", "GB", lambda value: f"{value / 1e9:.2f}"),
        Column("gather", "gather", number(3)),
        Column("copy", "copy to the host", number(3)),
        Column("serialise", "serialise", number(3)),
        Column("hash", "hash", number(3)),
        Column("write", "write", number(3)),
        Column("save", "whole save, read back", number(3)),
        Column("resume", "whole resume", number(3)),
    ),
    measure=measure,
    note="Full, bf16: master weights and moments in fp32. The disk is the machine's own.",
)
