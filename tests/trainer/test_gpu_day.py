"""The whole GPU day with small sizes on CPUs: every step runs its own code and writes its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gpu_day.record import Record
from gpu_day.registry import STEPS
from gpu_day.schedule import FINISHED

DAY = Path(__file__).parents[2] / "benchmarks" / "gpu" / "day.py"


@pytest.mark.timeout(1200)
def test_every_step_measures_its_small_rows_on_cpus(tmp_path: Path) -> None:
    command = [sys.executable, str(DAY), "--device", "cpu", "--small", "--commit", "tests", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(step.file for step in STEPS)
    for step in STEPS:
        record = Record.read(tmp_path / step.file)
        assert (record.ended, record.failures) == (FINISHED, {}), step.name
        assert sorted(record.rows) == sorted(step.rows if step.small_rows is None else step.small_rows), step.name
        assert (record.machine["commit"], record.machine["small"]) == ("tests", True)
        assert done.stdout.count(f"\n({step.letter}) {step.name} finished after ") == 2, "at its end, and at the day's"
    stages = Record.read(tmp_path / "b-stages.json").rows.values()
    assert {(figures["stopCode"], figures["savedStep"], figures["equal"]) for figures in stages} == {(75, 3, True)}
    faults = Record.read(tmp_path / "d-faults.json").rows
    assert {row: (figures["class"], figures.get("exitCode")) for row, figures in faults.items()} == {
        "SIGTERM to the pod": ("Preempted", 75),
        "SIGKILL to the rank": ("Infrastructure", 137),
        "a row that makes the loss NaN": ("none", None),
        "memory runs out": ("OutOfMemory", 78),
    }
    assert faults["memory runs out"]["followed"] == "attempt 2, 4 rows in a forward pass"
