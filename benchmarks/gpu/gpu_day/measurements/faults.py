"""(d) Faults in the middle of a step: their failure class, what follows, and when the job trains again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from gpu_day.device import memory_of
from gpu_day.models import LLAMA, TINY, save_base, save_rows, words
from gpu_day.step import Column, Day, Figures, Step, gibibytes, number

if TYPE_CHECKING:
    from gpu_day.jobs import LocalOperator

NAN, MEMORY = "a row that makes the loss NaN", "memory runs out"
SIGNALS: dict[str, tuple[str, signal.Signals]] = {
    "SIGSTOP to the rank": ("finetune_trainer.rank", signal.SIGSTOP),
    "SIGTERM to the pod": ("finetune_trainer.agent", signal.SIGTERM),
    "SIGTERM to the rank": ("finetune_trainer.rank", signal.SIGTERM),
    "SIGKILL to the rank": ("finetune_trainer.rank", signal.SIGKILL),
}
FROZEN = "SIGSTOP to the rank"
VOCABULARY = 512
LONG_VOCABULARY, LONG_ROW = 131072, 8192
"""The vocabulary and the row length. The logits of eight such rows take 17 GB in bf16 and 34 GB in fp32."""
MEMORY_SHARE = 0.5
MOST_ROWS = 4
WARM_STEPS = 5
POLL_SECONDS = 0.05
ENDLESS = 1_000_000


def measure(day: Day) -> None:
    """Measure one job for each fault, each with its own operator, as in `finetune run`."""
    from gpu_day.runs import hook_variables

    os.environ.update(hook_variables())
    _make_data(day)
    asyncio.run(_measure(day))


def _make_data(day: Day) -> None:
    for name, shape, vocabulary, lengths in (
        ("data", TINY, VOCABULARY, [24] * 200),
        ("spoilt", TINY, VOCABULARY, [24] * 199),
        ("long", *(({**TINY, "max_position_embeddings": LONG_ROW}, LONG_VOCABULARY, [LONG_ROW] * 16)
                   if day.on_gpu else (TINY, VOCABULARY, [24] * 16))),
    ):  # fmt: skip
        folder = day.folder / name
        save_base(folder / "base", LLAMA, shape, vocabulary, bad_word=name == "spoilt")
        save_rows(folder / "rows", LLAMA, lengths, vocabulary)
        save_rows(folder / "evaluation", LLAMA, [24] * 16, vocabulary, seed=4)
    with (day.folder / "spoilt" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"text": " ".join(words(VOCABULARY)[-8:])}) + "\n")


async def _measure(day: Day) -> None:
    from gpu_day.jobs import local_operator

    async def fault(row: str) -> None:
        name = row.lower().replace(" ", "-")[:30].strip("-")
        with day.row(row) as figures:
            async with local_operator(day.folder / name, day.folder / "logs") as operator:
                disturbed = DisturbedJob(day, operator, name, row)
                try:
                    await disturbed.measure(figures)
                except Exception:
                    print(operator.log_tail(name))
                    raise

    await asyncio.gather(*map(fault, day.rows))


@dataclass
class DisturbedJob:
    """The job of a row."""

    day: Day
    operator: LocalOperator
    name: str
    row: str

    async def measure(self, figures: Figures) -> None:
        """Start the job, disturb it and wait until it trains again."""
        await self.operator.create(self._job())
        faults = {NAN: self._spoilt_row, MEMORY: self._full_memory}
        await faults.get(self.row, self._signalled)(figures)

    def _job(self) -> dict[str, Any]:
        from gpu_day.jobs import manifest

        data, length, spec = "data", 32, {}
        if self.row == NAN:
            data = "spoilt"
        if self.row == MEMORY:
            data, length = "long", LONG_ROW if self.day.on_gpu else 32
            limit = ("MEMORY_SHARE", MEMORY_SHARE) if self.day.on_gpu else ("MOST_ROWS", MOST_ROWS)
            spec = {"podTemplate": {"env": [{"name": f"GPU_DAY_{limit[0]}", "value": str(limit[1])}]}}
        training = {"maxSteps": ENDLESS, "globalBatchSize": 8, "sequenceLength": length, "learningRate": 1e-4}
        return manifest(self.name, LLAMA, self.day.folder / data, self.day.device, training=training, **spec)

    async def _spoilt_row(self, figures: Figures) -> None:
        """Wait until the job has skipped the row's step and trained further."""
        while not (skipped := [record for record in self._steps() if "skippedRows" in record]):
            await asyncio.sleep(POLL_SECONDS)
        await self._trains(skipped[0]["step"] + WARM_STEPS)
        status = await self.operator.status(self.name)
        figures["class"] = status.ledger[-1].class_ if status.ledger else "none"
        figures["followed"] = f"skipped the step and named the rows {', '.join(skipped[0]['skippedRows'][:2])}"
        later = next(record for record in self._steps() if record["step"] > skipped[0]["step"])
        figures["seconds"] = later["time"] - skipped[0]["time"]

    async def _signalled(self, figures: Figures) -> None:
        """Send the signal and wait for the next attempt."""
        module, number = SIGNALS[self.row]
        await self._trains(WARM_STEPS)
        rank = self._process("finetune_trainer.rank")
        held = memory_of(rank) if self.day.on_gpu else None
        began = time.time()
        os.kill(self._process(module), number)
        again = await self._trains_again(began)
        ended = (await self.operator.status(self.name)).ledger[-1]
        figures.update({"class": ended.class_, "exitCode": ended.exit_code, "seconds": again - began})
        figures["followed"] = f"attempt {ended.attempt + 1} from step {ended.checkpoint_step or 0}"
        if held is not None:
            figures.update({"held": held, "left": memory_of(rank)})

    async def _full_memory(self, figures: Figures) -> None:
        """Wait for attempts with smaller plans, until one trains."""
        while not (status := await self.operator.status(self.name)).ledger:
            await asyncio.sleep(POLL_SECONDS)
        began, ended = time.time(), status.ledger[0]
        figures.update({"class": ended.class_, "exitCode": ended.exit_code})
        if ended.exit_code != 78:
            raise RuntimeError(f"memory should have run out: {ended.message}")
        again = await self._trains_again(began)
        status = await self.operator.status(self.name)
        assert status.run is not None
        figures["seconds"] = again - began
        figures["followed"] = f"attempt {status.run.attempt}, {status.run.micro_batch_size} rows in a forward pass"

    # ---- observing a job --------------------------------------------------------------------------------------------

    def _steps(self) -> list[dict[str, Any]]:
        """Return the records of the steps so far."""
        run = self.operator.run_folder(self.name)
        records = []
        with contextlib.suppress(OSError):
            for line in (run / "metrics.jsonl").read_text().splitlines() if run else ():
                with contextlib.suppress(ValueError):  # this line is still being written
                    records.append(json.loads(line))
        return [record for record in records if "split" not in record]

    async def _trains(self, steps: int) -> None:
        """Wait until the job has done this many steps. Raises RuntimeError if an attempt fails before."""
        while len(self._steps()) < steps:
            status = await self.operator.status(self.name)
            if status.ledger:
                raise RuntimeError(f"the job should train: {status.ledger[-1].message}")
            await asyncio.sleep(POLL_SECONDS)

    async def _trains_again(self, fault_time: float) -> float:
        """Return the time of the first step of a later attempt. Raises RuntimeError if there will be none."""
        while True:
            run = self.operator.run_folder(self.name)
            claim = run / "attempt" if run else Path()
            with contextlib.suppress(OSError, ValueError):
                since = claim.stat().st_mtime
                if int(claim.read_text()) > 1 and since > fault_time - 1:
                    later = [r["time"] for r in self._steps() if r["time"] > max(since, fault_time)]
                    if later:
                        return float(later[0])
            status = await self.operator.status(self.name)
            if status.phase == "Failed":
                raise RuntimeError(f"the job has failed: {status.ledger[-1].message}")
            await asyncio.sleep(POLL_SECONDS)

    def _process(self, module: str) -> int:
        """Return the process of the job's pod that runs this module. Raises RuntimeError if there is none."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError, KeyError):
                run_json = process.environ()["FINETUNE_RUN_CONFIG"]
                if module in process.cmdline() and json.loads(Path(run_json).read_text())["job"] == self.name:
                    return process.pid
        raise RuntimeError(f"no process of {module} belongs to {self.name}")


STEP = Step(
    letter="d",
    name="faults",
    title="Faults in the middle of a step",
    seconds=100,
    rows=(*SIGNALS, NAN, MEMORY),
    columns=(
        Column("class", "class"),
        Column("exitCode", "exit code"),
        Column("followed", "what followed"),
        Column("seconds", "s until it trains again", number(3)),
        Column("held", "GiB of the rank", gibibytes),
        Column("left", "GiB of it left afterwards", gibibytes),
    ),
    measure=measure,
    small_rows=("SIGTERM to the pod", "SIGKILL to the rank", NAN, MEMORY),
    note=(
        "One tiny job for each row, all on the card and disturbed at the same time. "
        f"Memory runs out of {100 * MEMORY_SHARE:.0f} % of the card, which is what that job may use (on CPUs it is "
        "simulated), and the seconds count from its first failure. A frozen rank is noticed after 45 s."
    ),
)
