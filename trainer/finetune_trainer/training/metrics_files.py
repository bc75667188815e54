"""Writes the records of a run to metrics.jsonl and as TensorBoard events.

An attempt that resumes rewrites the records up to its checkpoint and continues from there, so that each step occurs
once. A full disk does not end the training: records that could not be written are written with the next record.
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
"""The keys `step` and `epoch`, with `split` and `metrics` for an evaluation, or with a step's figures."""


def read_metrics(run: Path) -> list[Record]:
    """Return the records of a run's metrics.jsonl. Evaluations have the key `split`, steps do not."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


class MetricsFiles:
    """The metrics files of one run, written by one process."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._path = run / METRICS_FILE
        self._file: Any = None
        self._events: Any = None
        self._pending = b""

    def read(self) -> list[Record]:
        """Return the records of earlier attempts, without lines that are incomplete or damaged."""
        records = []
        with contextlib.suppress(OSError):
            for line in self._path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    if isinstance(record["step"], int):
                        records.append(record)
        return records

    def begin(self, records: list[Record]) -> None:
        """Begin the files with these records.

        The file is replaced: a process of an earlier attempt that still has it open writes to the deleted file.
        """
        from torch.utils.tensorboard import SummaryWriter  # The import takes a second, and only rank 0 needs it.

        self._run.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text("".join(_line(record) for record in records))
        temporary.replace(self._path)
        # A buffered file would write a part of a line twice after the disk was full.
        self._file = self._path.open("ab", buffering=0)
        # TensorBoard ignores the events of the folder's earlier files from this step on.
        last = records[-1]["step"] if records else None
        purged_from = None if last is None else last + 1
        self._events = SummaryWriter(str(self._run / TENSORBOARD_FOLDER), purge_step=purged_from)

    def append(self, record: Record) -> None:
        """Write a record, and records that could not be written before."""
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
        """Wait until the disk has all records."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Close the files. No record may follow."""
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
    """Replace NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
