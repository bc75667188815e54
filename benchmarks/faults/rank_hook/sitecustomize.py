"""Observes and disturbs a rank from inside, whatever trains in it. Python loads this file because it is in PYTHONPATH.

Every training here calls `DeepSpeedEngine.step`. The hook counts the steps, records their times, and makes each of them
last at least a tenth of a second, as if the model were larger. Faults from inside begin after so many steps. The file
`begun` contains the time at which the fault began, for the other ranks and later attempts.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from after_import import after_import  # the benchmarks are not a package

STEP_SECONDS = 0.1
MOST_BYTES = 40_000
"""The largest size of a file in bytes while the fault lasts (RLIMIT_FSIZE, which needs no privilege). It allows logs
and metrics but not weights. A larger write fails as on a full disk if the kernel's signal SIGXFSZ is ignored, as Python
does; otherwise the signal ends the process with a part of the file written."""


class Rank:
    """The rank of this process."""

    def __init__(self, environment: dict[str, str]) -> None:
        folder = Path(environment["FAULT_FOLDER"])
        self.number = int(environment["RANK"])
        self.act = environment["FAULT_ACT"]
        self._after = int(environment["FAULT_STEP"])
        self._rows = int(environment["FAULT_MEMORY_LIMIT_ROWS"])
        self._full_seconds = float(environment["FAULT_FULL_SECONDS"])
        self._begun_file = folder / "begun"
        self._steps_file = folder / "steps" / f"{environment['FAULT_ATTEMPT']}-{self.number}-{os.getpid()}"
        self._steps = 0
        self._step_time = time.monotonic()
        self._full_until = 0.0

    def after_step(self) -> None:
        """Record the step of the optimizer, and begin the fault if it is due."""
        time.sleep(max(0.0, self._step_time + STEP_SECONDS - time.monotonic()))
        self._step_time = time.monotonic()
        self._steps += 1
        with self._steps_file.open("a") as file:
            file.write(f"{time.time():.3f}\n")
        if self.act == "fill the disk":
            self._fill_disk()
        if self.act == "kill rank 0 in a write of weights" and self.number == 0 and self._steps == self._after:
            self._die_of_the_next_weights()

    def before_forward(self, is_training: bool, rows: int) -> None:
        """Raise torch.OutOfMemoryError if the fault limits the memory and the micro-batch is too large."""
        is_due = self._steps >= self._after or self._begun_file.exists()
        if self.act == "limit the memory" and is_training and is_due and rows > self._rows:
            import torch

            self._begin()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _die_of_the_next_weights(self) -> None:
        if self._begin():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            _limit_files(MOST_BYTES)

    def _fill_disk(self) -> None:
        if self._full_until:
            if time.monotonic() > self._full_until:
                _limit_files(resource.RLIM_INFINITY)
        elif self._steps == self._after and (self._begin() or self._is_this_attempts()):
            self._full_until = time.monotonic() + self._full_seconds
            _limit_files(MOST_BYTES)

    def _is_this_attempts(self) -> bool:
        return time.time() - float(self._begun_file.read_text() or time.time()) < self._full_seconds

    def _begin(self) -> bool:
        """Return True if this rank is the first to begin the fault, and record the time."""
        try:
            with self._begun_file.open("x") as file:
                file.write(f"{time.time():.3f}")
        except FileExistsError:
            return False
        return True


def _limit_files(most_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if most_bytes == resource.RLIM_INFINITY else most_bytes, hard))


def install(rank: Rank) -> None:
    """Wrap the step and the forward pass of DeepSpeed's engine."""

    def watch_engine(module: Any) -> None:
        engine_class = module.DeepSpeedEngine
        step, forward = engine_class.step, engine_class.forward

        def watched_step(engine: Any, *arguments: Any, **options: Any) -> Any:
            is_boundary = engine.is_gradient_accumulation_boundary()
            result = step(engine, *arguments, **options)
            if is_boundary:
                rank.after_step()
            return result

        def watched_forward(engine: Any, *arguments: Any, **features: Any) -> Any:
            rank.before_forward(engine.training, len(features["input_ids"]))
            return forward(engine, *arguments, **features)

        engine_class.step, engine_class.forward = watched_step, watched_forward

    after_import("deepspeed.runtime.engine", watch_engine)


if "RANK" in os.environ and "FAULT_FOLDER" in os.environ:
    install(Rank(dict(os.environ)))
