"""The GPU day without a GPU: the errors it reports, its tables, its arithmetic, and the time limit of a step."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gpu_day import machine, schedule
from gpu_day.measurements import idle, throughput, whole_run
from gpu_day.models import LLAMA_8B
from gpu_day.record import Record
from gpu_day.registry import STEPS, step_of
from gpu_day.step import Day, gibibytes, number
from gpu_day.table import MeasuredDay, markdown

ROOT = Path(__file__).parents[3]
DAY = ROOT / "benchmarks" / "gpu" / "day.py"
H200 = {"missing": [], "torchCuda": "13.0", "driverCuda": 13000, "card": "NVIDIA H200"}
MACHINE = {
    "date": "2026-12-01T10:00:00+00:00",
    "commit": "abc",
    "card": "NVIDIA H200",
    "gpuBytes": 150754820096,
    "driver": "580.159.04",
    "cpus": 16,
    "packages": {"torch": "2.11.0", "transformers": "5.17.0", "deepspeed": "0.19.8"},
}


def day(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(DAY), *arguments], capture_output=True, text=True)


# ---- errors that it reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--out is missing; name a folder for the JSON of the steps"),
        (["--out", "x", "--device", "cpu"], "--device cpu takes hours at full size; add --small"),
        (["--out", "x", "--only", "a,z"], "--only: there is no step 'z'; choose of a, b, c, d, e, f, g, h"),
        (
            ["--out", "x", "--minutes", "3"],
            "--minutes 3 is not enough: the steps may take 9.0 minutes; give --minutes 9, or choose --only a,b, "
            "which fits",
        ),
        (["--out", "x", "--minutes", "0.5"], "the steps may take 9.0 minutes; give --minutes 9\n"),
        (["--out", "/dev/null/x", "--device", "cpu", "--small"], "--out: /dev/null/x cannot be made (Not a directory)"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(arguments: list[str], sentence: str) -> None:
    done = day(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"missing": ["deepspeed"]}, "the module deepspeed is not installed here; build the wheels with"),
        ({"missing": ["kopf", "rich"]}, "the module kopf is not installed here (and neither are rich);"),
        ({"torchCuda": None}, "--device cuda: this torch is built for CPUs only"),
        ({"driverCuda": None}, "--device cuda: this machine has no NVIDIA driver; use one with a GPU"),
        (
            {"driverCuda": 12040},
            "the driver of this machine supports CUDA 12.4, which is too old for a torch that is built for CUDA 13.0",
        ),
        ({"card": None}, "--device cuda: torch finds no GPU on this machine"),
    ],
)
def test_a_machine_on_which_the_day_cannot_run_is_told_why(changes: dict[str, object], sentence: str) -> None:
    facts = {name: value for name, value in {**H200, **changes}.items() if value is not None or name != "card"}
    assert sentence in (machine.problem(facts, "cuda") or "")


def test_a_machine_with_a_gpu_and_all_packages_is_accepted() -> None:
    assert machine.problem(H200, "cuda") is None
    assert machine.problem({"missing": []}, "cpu") is None


def test_the_steps_fit_into_nine_minutes() -> None:
    assert [step.letter for step in STEPS] == list("abcdefgh")
    assert schedule.too_short(STEPS, 9) is None


def test_a_list_names_every_step_and_its_limit() -> None:
    lines = day("--list").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[step.letter, str(step.seconds)] for step in STEPS]


def test_the_small_rows_are_rows() -> None:
    for step in STEPS:
        assert set(step.small_rows or ()) <= set(step.rows), step.name


# ---- a step ---------------------------------------------------------------------------------------------------------


def test_a_step_that_hangs_is_ended_with_all_it_started_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gpu_day"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "run_step.py").write_text(
        "import json, pathlib, subprocess, sys, time\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--file') + 1])\n"
        "fields = json.loads(file.read_text())\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "file.write_text(json.dumps({**fields, 'rows': {'driver and torch': {'said': str(child.pid)}}}))\n"
        "print('the last line', flush=True)\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setattr(schedule, "CODE", (tmp_path,))
    step = replace(step_of("a"), seconds=2)
    record = schedule.run_step(step, {}, tmp_path, "cuda", small=False)
    assert record.ended == "was stopped at its limit of 2 s"
    assert record.log == "the last line\n"
    assert Record.read(tmp_path / step.file) == record
    child = int(record.rows["driver and torch"]["said"])
    assert not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"


def test_a_row_that_fails_keeps_its_reason_and_its_figures_and_the_day_goes_on(tmp_path: Path) -> None:
    step = step_of("h")
    today = Day(step, "cpu", False, tmp_path, Record(tmp_path / step.file, "h", {}))
    with today.row("ZeRO-0") as figures:
        figures["gather"] = 2.0
        raise ValueError("no room\nmore")
    with today.row("ZeRO-1") as figures:
        figures["gather"] = 3.0
    written = Record.read(tmp_path / step.file)
    assert written.rows == {"ZeRO-0": {"gather": 2.0, "failed": "ValueError: no room"}, "ZeRO-1": {"gather": 3.0}}
    assert written.failures == {"ZeRO-0": "ValueError: no room"}


# ---- the tables -----------------------------------------------------------------------------------------------------


def measured(folder: Path, date: str, **rows: dict[str, object]) -> Path:
    folder.mkdir()
    Record(folder / "h-checkpoints.json", "h", {**MACHINE, "date": date}, dict(rows), "finished").write()
    return folder


def test_every_row_is_in_the_table_with_all_days_that_measured_it(tmp_path: Path) -> None:
    older = measured(tmp_path / "2026-12-01-h200", "2026-12-01", **{"ZeRO-0": {"gather": 1.0, "bytes": 2e9}})
    newer = measured(tmp_path / "2026-12-02-h200", "2026-12-02", **{"ZeRO-0": {"gather": 20.0, "failed": "a|b"}})
    page = markdown([MeasuredDay.read(older), MeasuredDay.read(newer)])
    lines = [line for line in page.splitlines() if line.startswith("| ZeRO-0 |")]
    assert lines[0].startswith("| ZeRO-0 | 2026-12-02-h200 | failed: a\\|b | 20 |"), "the newest day comes first"
    assert lines[1].startswith("| ZeRO-0 | 2026-12-01-h200 | 2.00 | 1 |")
    assert "| ZeRO-3 | not measured |" in page
    assert "| 2026-12-01-h200 | NVIDIA H200, 140 GiB | abc | 580.159.04 | 2.11.0 | 5.17.0 | 0.19.8 | 16 |" in page
    for step in STEPS:
        assert all(f"| {row} |" in page for row in step.rows)


def test_the_committed_page_is_made_from_the_committed_days() -> None:
    folders = [path for path in sorted((DAY.parent / "days").iterdir()) if path.is_dir()]
    assert (DAY.parent / "results.md").read_text() == markdown([MeasuredDay.read(folder) for folder in folders])


def test_a_file_that_is_no_steps_is_named(tmp_path: Path) -> None:
    (tmp_path / "2026-12-01").mkdir()
    (tmp_path / "2026-12-01" / "a-environment.json").write_text("[")
    done = day("--table", "--days", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"day.py: --table: {tmp_path}/2026-12-01 has a file that is not a step's")


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (0.01234, "0.0123"), (999.6, "1e+03")])
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(3)(value) == text


def test_bytes_are_shown_as_gibibytes() -> None:
    assert (gibibytes(3 * 2**29), gibibytes(120 * 2**30)) == ("1.50", "120")


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def test_overlapping_kernels_count_once_as_busy() -> None:
    assert idle.covered([(0, 4), (2, 5), (7, 8), (7.5, 7.6)]) == 6
    assert idle.covered([]) == 0


def test_a_trace_tells_the_busy_time_and_the_waits_of_the_host(tmp_path: Path) -> None:
    events = [
        {"cat": "kernel", "name": "gemm", "ts": 0, "dur": 10},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "ts": 5, "dur": 10},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 100},
        {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 50, "dur": 1},
        {"ph": "M", "name": "process_name"},
    ]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": events}))
    assert idle.told_by(tmp_path / "trace.json") == (15e-6, 1)


def test_an_adapter_needs_four_operations_for_each_parameter_and_token_and_those_of_attention() -> None:
    assert throughput.flops_per_token(7_500_000_000, LLAMA_8B, 2048) == 4 * 7.5e9 + 6 * 32 * 4096 * 2048


def test_the_mix_of_lengths_is_the_same_on_both_sides_and_within_its_bounds() -> None:
    mixed = throughput.WORKLOADS[2]
    lengths = mixed.lengths(5)
    assert lengths == mixed.lengths(5)
    assert len(lengths) == 5 * mixed.rows
    assert 8 <= min(lengths) < max(lengths) <= mixed.longest


def test_what_the_engine_leaves_is_compared_with_what_it_had() -> None:
    lines = [
        {"phase": "load", "time": 10.0, "allocated": 0, "peak": 5},
        {"phase": "train", "time": 12.0, "allocated": 80, "peak": 70},
        {"phase": "save", "time": 13.0, "allocated": 80, "peak": 90},
        {"phase": "train", "time": 14.0, "allocated": 80, "peak": 80},
        {"phase": "export", "time": 15.0, "allocated": 80, "peak": 80},
        {"phase": "check", "time": 18.0, "allocated": 20, "peak": 85},
    ]
    told = whole_run.told_by(lines, began=5.0)
    expected = {"untilTraining": 7.0, "exportSeconds": 3.0, "before": 80, "after": 20, "left": 0.25, "peak": 90}
    assert told == expected
