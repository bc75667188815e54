"""The records of a run: metrics.jsonl, and the same as TensorBoard events.

An attempt that resumes writes the records up to its checkpoint anew and goes on from there: every step is there once. A
disk that is full costs no training: what could not be written is tried again with the next record.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
Record = dict[str, Any]
"""`step` and `epoch`; of an evaluation `split` and `metrics`, of a step its figures."""


def read_metrics(run: Path) -> list[Record]:
    """The records of a run's metrics.jsonl; an evaluation has the key `split`, a step has not."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


class MetricsFiles:
    """Of one run, written by one process."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._path = run / METRICS_FILE
        self._file: Any = None
        self._events: Any = None
        self._pending = b""

    def read(self) -> list[Record]:
        """What an earlier attempt has left; a line that a crash has cut, or somebody else has spoilt, is left out."""
        records = []
        with contextlib.suppress(OSError):
            for line in self._path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    if isinstance(record["step"], int):
                        records.append(record)
        return records

    def begin(self, records: list[Record]) -> None:
        """Start with these. Another process may still write to the file that was there: it writes to nowhere."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and only rank 0 writes

        self._run.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text("".join(_line(record) for record in records))
        temporary.replace(self._path)
        # Without a buffer, which would write its part of a line again after the disk was full.
        self._file = self._path.open("ab", buffering=0)
        # TensorBoard itself forgets the events from there on that earlier files of the folder have.
        last = records[-1]["step"] if records else None
        purged_from = None if last is None else last + 1
        self._events = SummaryWriter(str(self._run / TENSORBOARD_FOLDER), purge_step=purged_from)

    def append(self, record: Record) -> None:
        """One more."""
        self._pending += _line(record).encode()
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            sys.stderr.write(f"{self._path} cannot be written: {error.strerror}\n")
        with contextlib.suppress(OSError):
            for name, value in _scalars(record).items():
                self._events.add_scalar(name, value, record["step"])

    def flush(self) -> None:
        """Until the disk has it all."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Nothing more comes."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
                self._events.close()


def _line(record: Record) -> str:
    return json.dumps(_without_nan(record)) + "\n"


def _scalars(record: Record) -> dict[str, float]:
    if "split" in record:
        return {f"evaluation/{name}": value for name, value in record["metrics"].items()}
    left_out = ("step", "epoch", "time")
    return {f"train/{k}": v for k, v in record.items() if k not in left_out and isinstance(v, int | float)}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
