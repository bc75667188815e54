"""(c) Whole `finetune run`s through operator and agent, with a merge, and the memory after the engine is destroyed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from gpu_day.models import LLAMA, MEDIUM, TINY, save_base, save_rows
from gpu_day.step import Column, Day, Step, gibibytes, number, percent

STAGES = (0, 1, 2, 3)
VOCABULARY = 8192
STEPS = 8


def measure(day: Day) -> None:
    """Measure all runs at the same time."""
    shape, vocabulary = (MEDIUM, VOCABULARY) if day.on_gpu else (TINY, 512)
    save_base(day.folder / "data" / "base", LLAMA, shape, vocabulary)
    save_rows(day.folder / "data" / "rows", LLAMA, [64] * 64, vocabulary)
    save_rows(day.folder / "data" / "evaluation", LLAMA, [64] * 16, vocabulary, seed=4)
    with ThreadPoolExecutor(len(day.rows)) as pool:
        runs = {pool.submit(_run, day, row): row for row in day.rows}
        for run in as_completed(runs):
            with day.row(runs[run]) as figures:
                figures.update(run.result())


def _run(day: Day, row: str) -> dict[str, Any]:
    """Make one run as a user does. Raises RuntimeError with its last line if it fails."""
    from gpu_day.jobs import manifest
    from gpu_day.runs import hook_variables
    from gpu_day.schedule import environment

    stage, method = row.split(", ")
    folder = day.folder / row.replace(", ", "-")
    folder.mkdir()
    job = manifest(
        "whole",
        LLAMA,
        day.folder / "data",
        day.device,
        method={"type": method},
        training={"maxSteps": STEPS, "globalBatchSize": 8, "sequenceLength": 64},
        deepspeed={"zeroStage": int(stage.removeprefix("ZeRO-"))},
        **({"output": {"merge": True}} if method == "LoRA" else {}),
    )
    (folder / "job.yaml").write_text(json.dumps(job))
    phases = folder / "phases.jsonl"
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator.cli.main", "run", "job.yaml", "--workspace", "w"],
        cwd=folder,
        env=environment() | hook_variables(phases=phases),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"exit code {done.returncode}: {last}")
    lines = [json.loads(line) for line in phases.read_text().splitlines()]
    return {"exitCode": done.returncode, "seconds": time.time() - began, **told_by(lines, began)}


def told_by(phases: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """Return times and bytes from the lines of the rank's hook. `began` is the time at which the run was started."""
    first = {line["phase"]: line for line in reversed(phases)}
    figures: dict[str, Any] = {
        "untilTraining": first["train"]["time"] - began,
        "exportSeconds": first["check"]["time"] - first["export"]["time"],
    }
    if "allocated" not in first["check"]:
        return figures
    before, after = first["export"]["allocated"], first["check"]["allocated"]
    peak = max(line["peak"] for line in phases)
    return figures | {"before": before, "after": after, "left": after / before, "peak": peak}


STEP = Step(
    letter="c",
    name="whole-run",
    title="Whole `finetune run`s through operator and agent; memory after the engine was destroyed",
    seconds=65,
    rows=tuple(f"ZeRO-{stage}, {method}" for stage in STAGES for method in ("LoRA", "Full")),
    columns=(
        Column("exitCode", "exit code"),
        Column("seconds", "s in all", number(2)),
        Column("untilTraining", "s until it trains", number(2)),
        Column("exportSeconds", "s for export and merge", number(2)),
        Column("peak", "peak GiB", gibibytes),
        Column("before", "GiB before destroy", gibibytes),
        Column("after", "GiB after", gibibytes),
        Column("left", "left", percent),
    ),
    measure=measure,
    small_rows=("ZeRO-2, LoRA",),
    note="A Llama of 98M parameters in bf16, LoRA with a merge. All runs are on the card at the same time.",
)
