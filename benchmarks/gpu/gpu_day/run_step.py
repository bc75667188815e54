"""Runs one step of the day in this process: `python -m gpu_day.run_step LETTER --file FILE --device cuda`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from gpu_day.record import Record
from gpu_day.registry import STEPS, step_of
from gpu_day.step import Day


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("letter", choices=[step.letter for step in STEPS])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    step = step_of(options.letter)
    with tempfile.TemporaryDirectory(prefix="gpu-day-", ignore_cleanup_errors=True) as folder:
        step.measure(Day(step, options.device, options.small, Path(folder), Record.read(options.file)))
    sys.stdout.flush()
    sys.stderr.flush()
    # A normal exit could hang forever in the destructor of NCCL's process group.
    os._exit(0)


if __name__ == "__main__":
    main()
