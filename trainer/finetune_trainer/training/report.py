"""Writes what a rank reports: the records of every step, and the files that the pod's agent reads.

The training thread only stores the newest state, and a separate thread writes it to the scratch folder at most five
times a second, so that very short steps are not slowed down and the last state is always written. The heartbeat is set
by the training thread, so it stops when the training stops.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal

from finetune_trainer import contract
from finetune_trainer.checkpoint.files import Position
from finetune_trainer.contract import CheckpointReport, Facts, Phase, Progress, RankStatus, RunConfig
from finetune_trainer.pod.paths import Paths
from finetune_trainer.pod.scratch import write_atomically
from finetune_trainer.ranks.activity import Activity
from finetune_trainer.training.metrics_files import MetricsFiles, Record
from finetune_trainer.training.steps import Step

SECONDS_BETWEEN_WRITES = 0.2
RECENT_STEPS = 20
"""The number of recent steps from which speed and remaining time are computed."""

Split = Literal["base", "epoch", "step", "final"]
"""The kind of an evaluation: before training, after an epoch, after some steps, or of the saved and reloaded result."""


class Report:
    """The reports of one rank: rank 0 writes metrics and progress, and every rank writes its status.

    Close it, or use it as a context manager.
    """

    def __init__(self, config: RunConfig, paths: Paths, rank: int, backend: str, activity: Activity) -> None:
        self._activity = activity
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
        self._checkpoint: CheckpointReport | None = None
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=RECENT_STEPS)
        self._step_began = time.monotonic()
        self._metrics: MetricsFiles | None = MetricsFiles(paths.run(config)) if rank == 0 else None
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._write_files()
        self._writer = threading.Thread(target=self._write_when_changed, name="report", daemon=True)
        self._writer.start()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def phase(self, phase: Phase) -> None:
        """Report that the rank begins another phase. The time before it does not count as a step's time."""
        self._step_began = time.monotonic()
        self._activity.enter(phase)
        self._set_status(phase=phase)

    def begin(self) -> None:
        """Begin the records of a training that starts from the beginning."""
        if self._metrics:
            self._metrics.begin([])

    def resume(self, position: Position, base_metrics: dict[str, float], checkpoint: CheckpointReport) -> None:
        """Continue the records of a training that resumes from a checkpoint.

        Later records are dropped, because their steps are repeated.
        """
        self._checkpoint = checkpoint
        if self._metrics:
            self._metrics.begin(_until(position, base_metrics, self._metrics.read()))
        self._set_status(step=position.step)

    def step(self, step: Step, total_steps: int, position: Position, slow: tuple[int, float] | None) -> None:
        """Report an optimizer step that was done or skipped.

        `slow` is a rank that is much slower than the others, and its time in multiples of the median.
        """
        now = time.monotonic()
        self._recent.append((now - self._step_began, step.tokens, step.samples))
        self._step_began = now
        if self._metrics:
            self._progress = self._progress_at(step, total_steps, position, slow)
            scalars = {"loss": step.loss, "learningRate": step.learning_rate, "gradNorm": step.grad_norm}
            speed = {
                "tokensPerSecond": self._progress.tokens_per_second,
                "samplesPerSecond": self._progress.samples_per_second,
            }
            scalars.update({name: value for name, value in speed.items() if value is not None})
            record: dict[str, Any] = {"step": step.number, "epoch": position.epoch, **scalars}
            if step.skipped:
                record["skippedRows"] = list(step.bad_rows)
            self._record(record)
        self._set_status(step=step.number)

    def _progress_at(
        self, step: Step, total_steps: int, position: Position, slow: tuple[int, float] | None
    ) -> Progress:
        seconds = max(statistics.median(seconds for seconds, _, _ in self._recent), 1e-9)
        tokens = statistics.fmean(tokens for _, tokens, _ in self._recent)
        samples = statistics.fmean(samples for _, _, samples in self._recent)
        if step.own_seconds or self._progress is None:
            slowest_rank, slowness = slow or (None, None)
        else:
            slowest_rank, slowness = self._progress.slowest_rank, self._progress.slowness
        return Progress(
            step=step.number,
            total_steps=total_steps,
            epoch=position.epoch,
            loss=step.loss if math.isfinite(step.loss) else None,
            learning_rate=step.learning_rate,
            tokens_per_second=tokens / seconds if tokens else None,
            samples_per_second=samples / seconds,
            eta_seconds=(total_steps - step.number) * seconds,
            step_seconds=seconds,
            skipped_steps=position.health.skipped,
            skipped_in_row=position.health.skipped_in_row,
            loss_spikes=position.health.spikes,
            slowest_rank=slowest_rank,
            slowness=slowness,
        )

    def checkpoint(self, told: CheckpointReport | str) -> None:
        """Report a checkpoint that was written, or the reason why it could not be written."""
        if isinstance(told, CheckpointReport):
            self._checkpoint = told
        elif self._metrics:
            sys.stderr.write(f"{told}\n")
            before = self._checkpoint or CheckpointReport(step=0, time=time.time(), bytes=0, save_seconds=0.0)
            self._checkpoint = before.model_copy(update={"failure": told})
        self._set_status()

    def facts(self, facts: Facts) -> None:
        """Report the facts about the data that the preparation found, and write their notes to the log."""
        if self._metrics:
            for note in facts.notes:
                self.say(note)
            with contextlib.suppress(OSError):
                write_atomically(self._scratch / contract.FACTS_FILE, facts.to_json())

    def say(self, sentence: str) -> None:
        """Write a sentence to the pod's log, on rank 0 only."""
        if self._metrics:
            sys.stderr.write(f"{sentence}\n")

    def flush(self) -> None:
        """Flush the records to the disk, so that no checkpoint is newer than the metrics."""
        if self._metrics:
            self._metrics.flush()

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float], split: Split) -> None:
        """Report the metrics on the evaluation rows."""
        if self._metrics:
            self._record({"step": step, "epoch": epoch, "split": split, "metrics": metrics})
        self._set_status()

    def close(self) -> None:
        """Write the remaining state. Nothing may be reported afterwards."""
        self._closing.set()
        self._changed.set()
        self._writer.join()
        self._write_files()
        if self._metrics:
            self._metrics.close()

    def _record(self, record: dict[str, Any]) -> None:
        assert self._metrics is not None, "rank 0 records"
        self._metrics.append({**record, "time": time.time()})

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
        """Write the state to the scratch folder. If the folder is full, the next write may succeed."""
        with contextlib.suppress(OSError):
            write_atomically(self._scratch / contract.rank_status_file(self._rank), self._status.to_json())
            if self._progress is not None:
                write_atomically(self._scratch / contract.PROGRESS_FILE, self._progress.to_json())
            if self._metrics and self._checkpoint is not None:
                write_atomically(self._scratch / contract.CHECKPOINT_FILE, self._checkpoint.to_json())


def _until(position: Position, base_metrics: dict[str, float], records: Iterable[Record]) -> list[Record]:
    """Return the records up to a checkpoint's position: each step once, and each evaluation."""
    kept: dict[tuple[int, str], Record] = {
        (0, "base"): {"step": 0, "epoch": 0.0, "split": "base", "metrics": base_metrics}
    }
    for record in records:
        step, split = record["step"], record.get("split", "")
        is_due = split and step == position.step and not position.evaluated
        if step <= position.step and not is_due and split != "final":
            kept[step, split] = record
    return [kept[key] for key in sorted(kept, key=lambda key: (key[0], bool(key[1])))]
