"""Observes a rank from inside, and makes it stop or run out of memory.

Python loads this file because it is in PYTHONPATH.

Environment variables define what it does; without them, it does nothing.

- GPU_DAY_PHASES: a file that gets a line of JSON whenever the rank begins a phase: the phase, the time, and the bytes
  of GPU memory that torch has allocated, the most that it has allocated since the last line, and has reserved.
- GPU_DAY_STOP_AFTER: the number of steps in this process after which the pod is asked to stop.
- GPU_DAY_MEMORY_SHARE: the share of the GPU's memory that this process may use; torch's allocator refuses more.
- GPU_DAY_MOST_ROWS: the largest forward pass in rows; a larger one raises torch.OutOfMemoryError. It simulates full
  memory on CPUs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))

from after_import import after_import  # the benchmarks are not a package


def watch_report(module: Any) -> None:
    """Observe the phases and steps that the rank reports."""
    report = module.Report
    phase, step = report.phase, report.step

    def watched_phase(self: Any, name: Any) -> None:
        phase(self, name)
        if path := os.environ.get("GPU_DAY_PHASES"):
            with open(path, "a") as file:
                file.write(json.dumps({"phase": str(name), "time": time.time(), **memory()}) + "\n")

    def watched_step(self: Any, done: Any, *arguments: Any) -> None:
        step(self, done, *arguments)
        # The rank sees the request in the next step and stops at its end.
        if str(done.number + 1) == os.environ.get("GPU_DAY_STOP_AFTER"):
            (Path(os.environ["FINETUNE_SCRATCH"]) / "stop").touch()

    report.phase, report.step = watched_phase, watched_step


def memory() -> dict[str, int]:
    """Return the bytes of GPU memory in use, and reset the peak."""
    import torch

    if not torch.cuda.is_available():
        return {}
    found = {"allocated": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}
    found["reserved"] = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return found


def limit_memory(module: Any) -> None:
    """Limit this process to its share of the GPU's memory."""
    if (share := os.environ.get("GPU_DAY_MEMORY_SHARE")) is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(share))


def limit_rows(module: Any) -> None:
    """Make forward passes with too many rows fail."""
    if (most := os.environ.get("GPU_DAY_MOST_ROWS")) is None:
        return
    import torch

    forward = module.DeepSpeedEngine.forward

    def limited_forward(engine: Any, *arguments: Any, **features: Any) -> Any:
        if engine.training and len(features["input_ids"]) > int(most):
            raise torch.OutOfMemoryError("simulated: the forward pass has too many rows")
        return forward(engine, *arguments, **features)

    module.DeepSpeedEngine.forward = limited_forward


if "RANK" in os.environ:
    after_import("finetune_trainer.training.report", watch_report)
    after_import("finetune_trainer.training.loop", limit_memory)
    after_import("deepspeed.runtime.engine", limit_rows)
