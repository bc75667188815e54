"""(f) Tokens per second of an 8B-shaped model with all its layers, LoRA: this trainer and Hugging Face's, in turns."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_day.models import LLAMA_8B, TINY
from gpu_day.schedule import environment
from gpu_day.step import Column, Day, Figures, Step, gibibytes, number, percent

PEAK_FLOPS = 790e12
"""The floating-point operations per second in bf16, dense, that a matrix product of 8,192 reaches on an H200. An H100
has the same arithmetic."""
STEPS = 5
TURNS = 2
OURS, PEER = "this trainer", "Hugging Face's Trainer"
SIDES = {OURS: "ours", PEER: "peer"}


@dataclass(frozen=True)
class Workload:
    """The rows of a step."""

    name: str
    rows: int
    micro_batch: int
    longest: int
    mixed: bool = False

    def lengths(self, steps: int) -> list[int]:
        """Return the tokens of each row.

        The mixed lengths are log-normal, with a mean of about 460 for a longest row of 2,048.
        """
        if not self.mixed:
            return [self.longest] * self.rows * steps
        draw = random.Random(7)
        wanted = [int(draw.lognormvariate(0, 0.8) * self.longest / 5.5) for _ in range(self.rows * steps)]
        return [min(self.longest, max(8, length)) for length in wanted]


WORKLOADS = (
    Workload("8 x 512 tokens", 8, 8, 512),
    Workload("4 x 2,048 tokens", 4, 4, 2048),
    Workload("16 rows of up to 2,048 tokens, mixed", 16, 4, 2048, mixed=True),
)


def row_name(workload: Workload, side: str) -> str:
    """Return the name of a side's row in the table."""
    return f"{workload.name}, {side}"


def measure(day: Day) -> None:
    """Measure both sides in turns.

    Both keep their model on the device all the time, and release the memory of activations after each turn.
    """
    workers = {side: Worker(module, day) for side, module in SIDES.items()}
    try:
        for workload in WORKLOADS:
            if row_name(workload, OURS) not in day.rows:
                continue
            answers: dict[str, list[Figures]] = {side: [] for side in SIDES}
            for turn in range(TURNS):
                for side in SIDES if turn % 2 == 0 else reversed(SIDES):
                    answers[side].append(workers[side].train(workload))
            for side in SIDES:
                with day.row(row_name(workload, side)) as figures:
                    figures.update(summary(answers[side], workload, day))
    finally:
        for worker in workers.values():
            worker.end()


def summary(turns: Sequence[Figures], workload: Workload, day: Day) -> Figures:
    """Return one side's figures over all steps of its turns. Raises RuntimeError if the side failed."""
    for turn in turns:
        if "failed" in turn:
            raise RuntimeError(turn["failed"])
    seconds = [second for turn in turns for second in turn["seconds"]]
    tokens = [count for turn in turns for count in turn["tokens"]]
    rates = [count / second for count, second in zip(tokens, seconds, strict=True)]
    figures: Figures = {
        "tokensPerSecond": sum(tokens) / sum(seconds),
        "lowest": min(rates),
        "highest": max(rates),
        "settings": turns[0]["settings"],
    }
    if day.on_gpu:
        figures["peak"] = max(turn["peak"] for turn in turns)
        if not workload.mixed:
            flops = flops_per_token(turns[0]["parameters"], LLAMA_8B, workload.longest)
            figures["mfu"] = figures["tokensPerSecond"] * flops / PEAK_FLOPS
    return figures


def flops_per_token(parameters: int, shape: dict[str, int], tokens: int) -> float:
    """Return the floating-point operations for one token when an adapter is trained on rows of `tokens` tokens.

    Each parameter of the matrices needs two in the forward pass and two in the backward pass, because frozen weights
    have no gradients of their own. Causal attention adds 2 x layers x width x tokens forward and twice that backward,
    half of what PaLM's appendix B (https://arxiv.org/abs/2204.02311) counts for attention to all tokens. Recomputed
    activations do not count. `parameters` excludes the embedding, which is a lookup.
    """
    attention = 6 * shape["num_hidden_layers"] * shape["hidden_size"] * tokens
    return 4 * parameters + attention


class Worker:
    """One side, in its own process that keeps its model on the device."""

    def __init__(self, module: str, day: Day) -> None:
        shape = LLAMA_8B if day.on_gpu else {**TINY, "vocab_size": 512, "max_position_embeddings": 2048}
        options = {"device": day.device, "shape": shape, "folder": str(day.folder / module), "steps": STEPS}
        self._divisor = 1 if day.on_gpu else 32
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"gpu_day.sides.{module}", json.dumps(options)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, workload: Workload) -> Figures:
        """Train some steps and return the figures. For a process that has ended, they contain its exit code."""
        lengths = [max(4, length // self._divisor) for length in workload.lengths(STEPS)]
        asked = {"rows": workload.rows, "microBatch": workload.micro_batch, "mixed": workload.mixed, "lengths": lengths}
        answer = ""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(asked) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
        if not answer:
            return {"failed": f"the side's process ended with exit code {self._process.wait()}"}
        figures: Figures = json.loads(answer)
        return figures

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


STEP = Step(
    letter="f",
    name="throughput",
    title="An 8B-shaped Llama with all layers, LoRA of rank 8, beside Hugging Face's Trainer",
    seconds=95,
    rows=tuple(row_name(workload, side) for workload in WORKLOADS for side in SIDES),
    columns=(
        Column("tokensPerSecond", "useful tokens/s", number(4)),
        Column("lowest", "slowest step", number(4)),
        Column("highest", "fastest step", number(4)),
        Column("mfu", f"MFU, of {PEAK_FLOPS / 1e12:.0f} TFLOP/s", percent),
        Column("peak", "peak GiB", gibibytes),
        Column("settings", "settings"),
    ),
    measure=measure,
    small_rows=tuple(row_name(WORKLOADS[2], side) for side in SIDES),
    note=(
        f"bf16, SDPA attention, {TURNS} turns of {STEPS} steps for each side, whose order changes; the first step of a "
        "turn warms up and does not count. Useful tokens are those without padding."
    ),
)
