"""Chooses the steps that fit into the time, and runs each in a process that ends at its limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import psutil

from gpu_day.record import MAX_LOG_CHARACTERS, Figures, Record
from gpu_day.step import Step

ROOT = Path(__file__).parents[3]
CODE = (ROOT / "benchmarks" / "gpu", ROOT / "operator", ROOT / "trainer")
START_SECONDS = 10
"""Seconds for querying the machine before the first step."""
FINISHED = "finished"
PATIENCE_ON_CPUS = 4
"""The factor by which a step's limit is longer on CPUs: such a machine is not lent, and it may be busy."""


def environment() -> dict[str, str]:
    """Return the environment of all processes of the day.

    The repository's code precedes installed packages; there is no network and no variable of a running pod.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "GPU_DAY_"))}
    # The paths are absolute, because the processes of a run have other working folders.
    installed = [str(Path(entry).absolute()) for entry in kept.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = os.pathsep.join([*map(str, CODE), *installed])
    return kept | {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def too_short(steps: Sequence[Step], minutes: float) -> str | None:
    """Return one sentence about why the steps do not fit into the time; None if they do."""
    needed = START_SECONDS + sum(step.seconds for step in steps)
    if needed <= 60 * minutes:
        return None
    ends = accumulate(step.seconds for step in steps)
    fitting = [step.letter for step, end in zip(steps, ends, strict=True) if START_SECONDS + end <= 60 * minutes]
    remedy = f", or choose --only {','.join(fitting)}, which fits" if fitting else ""
    return (
        f"--minutes {minutes:g} is not enough: the steps may take {needed / 60:.1f} minutes; "
        f"give --minutes {-(-needed // 60)}{remedy}"
    )


def run_step(step: Step, machine: Figures, out: Path, device: str, small: bool) -> Record:
    """Run a step to its end or its limit. Return its figures, which are also in its file in `out`."""
    record = Record(out / step.file, step.letter, machine)
    limit = step.seconds * (1 if device == "cuda" else PATIENCE_ON_CPUS)
    record.write()
    began = time.monotonic()
    ended, log = _run(step, record.path, device, small, limit)
    with contextlib.suppress(OSError, ValueError, TypeError):
        record = Record.read(record.path)
    record.ended, record.seconds = ended, round(time.monotonic() - began, 1)
    if ended != FINISHED or record.failures:
        record.log = log[-MAX_LOG_CHARACTERS:]
    record.write()
    return record


def _run(step: Step, path: Path, device: str, small: bool, limit: int) -> tuple[str, str]:
    """Return how the step's process ended, and its output."""
    command = [sys.executable, "-m", "gpu_day.run_step", step.letter, "--file", str(path), "--device", device]
    log = path.with_name(f".{path.stem}.log")
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *(["--small"] if small else [])],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            code = process.wait(limit)
            ended = FINISHED if code == 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"was stopped at its limit of {limit} s"
        finally:
            kill_all(process)
        return ended, log.read_text(errors="replace")
    finally:
        log.unlink(missing_ok=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its descendants and its group.

    If the process has ended, only its group is known.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)  # keeps it from starting more processes
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for started in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                started.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
