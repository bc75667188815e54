"""What a rank tells while it works: metrics.jsonl, TensorBoard events, and the files that the pod's agent reads.

The training thread only leaves the newest state; a thread of ours writes it to the scratch folder at most five times a
second, so that tiny steps are not slowed and the last state always gets written. The heartbeat is stamped by the
training thread: it stands still when training does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from finetune_trainer import contract
from finetune_trainer.contract import Phase, Progress, RankStatus, RunConfig
from finetune_trainer.paths import Paths

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SECONDS_BETWEEN_WRITES = 0.2
RECENT_STEPS = 20
"""Speed and the remaining time are taken from the last so many steps."""

Split = Literal["base", "epoch", "final"]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl; an evaluation has the key `split`, a step has not."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


class Report:
    """Of one rank; rank 0 writes metrics and progress, every rank its status. Close it, or use it as a context."""

    def __init__(self, config: RunConfig, paths: Paths, rank: int, backend: str) -> None:
        self._config = config
        self._scratch = paths.scratch
        self._rank = rank
        self._status = RankStatus(
            rank=rank,
            world=config.world.size,
            config_digest=config.digest,
            backend=backend,
            zero_stage=config.zero_stage,
            phase=Phase.INIT,
            step=0,
            heartbeat=time.time(),
        )
        self._progress: Progress | None = None
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=RECENT_STEPS)
        self._step_began = time.monotonic()
        self._run = paths.run(config)
        self._files = contextlib.ExitStack()
        if rank == 0:
            self._open_metrics()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._write_files()
        self._writer = threading.Thread(target=self._write_when_changed, name="report", daemon=True)
        self._writer.start()

    def _open_metrics(self) -> None:
        # TensorBoard takes a second to import, so only the rank that writes events pays for it.
        from torch.utils.tensorboard import SummaryWriter

        self._run.mkdir(parents=True, exist_ok=True)
        self._metrics = self._files.enter_context((self._run / METRICS_FILE).open("w", buffering=1))
        self._events = self._files.enter_context(SummaryWriter(str(self._run / TENSORBOARD_FOLDER)))

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def phase(self, phase: Phase) -> None:
        """The rank begins to do something else; the time of what it did before does not count as a step's."""
        self._step_began = time.monotonic()
        self._set_status(phase=phase)

    def step(
        self,
        step: int,
        total_steps: int,
        epoch: float,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens: int,
        samples: int,
    ) -> None:
        """An optimizer step is done. `step` counts from 1; `tokens` (0 for images) and `samples` are those of the step
        on all ranks; `loss` and `grad_norm` may be NaN."""
        now = time.monotonic()
        self._recent.append((now - self._step_began, tokens, samples))
        self._step_began = now
        if self._rank == 0:
            self._progress = self._progress_at(step, total_steps, epoch, loss, learning_rate)
            scalars = {"loss": loss, "learningRate": learning_rate, "gradNorm": grad_norm}
            speed = {
                "tokensPerSecond": self._progress.tokens_per_second,
                "samplesPerSecond": self._progress.samples_per_second,
            }
            scalars.update({name: value for name, value in speed.items() if value is not None})
            self._record({"step": step, "epoch": epoch, **scalars}, {f"train/{k}": v for k, v in scalars.items()}, step)
        self._set_status(step=step)

    def _progress_at(self, step: int, total_steps: int, epoch: float, loss: float, learning_rate: float) -> Progress:
        seconds = max(statistics.median(seconds for seconds, _, _ in self._recent), 1e-9)
        tokens = statistics.fmean(tokens for _, tokens, _ in self._recent)
        samples = statistics.fmean(samples for _, _, samples in self._recent)
        return Progress(
            step=step,
            total_steps=total_steps,
            epoch=epoch,
            loss=loss if math.isfinite(loss) else None,
            learning_rate=learning_rate,
            tokens_per_second=tokens / seconds if tokens else None,
            samples_per_second=samples / seconds,
            eta_seconds=(total_steps - step) * seconds,
        )

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float], split: Split) -> None:
        """Metrics on the evaluation rows: of the start model, after an epoch, or of the saved and reloaded result."""
        if self._rank == 0:
            record = {"step": step, "epoch": epoch, "split": split, "metrics": metrics}
            self._record(record, {f"evaluation/{name}": value for name, value in metrics.items()}, step)
        self._set_status()

    def close(self) -> None:
        """Write what is not yet written. Nothing may be reported afterwards."""
        self._closing.set()
        self._changed.set()
        self._writer.join()
        self._write_files()
        self._files.close()

    def _record(self, record: dict[str, Any], scalars: dict[str, float], step: int) -> None:
        record = {**record, "time": time.time()}
        self._metrics.write(json.dumps(_without_nan(record)) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def _set_status(self, **changes: Any) -> None:
        self._status = self._status.model_copy(update={**changes, "heartbeat": time.time()})
        self._changed.set()

    def _write_when_changed(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            self._write_files()
            self._closing.wait(SECONDS_BETWEEN_WRITES)

    def _write_files(self) -> None:
        write_atomically(self._scratch / contract.rank_status_file(self._rank), self._status.to_json())
        if self._progress is not None:
            write_atomically(self._scratch / contract.PROGRESS_FILE, self._progress.to_json())


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
