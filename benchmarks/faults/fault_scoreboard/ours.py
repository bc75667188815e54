"""The side of this repository's trainer. The driver acts as the operator: it starts agents and evaluates their ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fault_scoreboard import workload
from fault_scoreboard.side import GRACE_SECONDS, PATIENCE_SECONDS, Attempt, Command, Job, Next, Side, base_environment
from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, RunConfig, TerminationMessage

FOLDER = "faults/tiny/runs/1-abcdef12"
FIRST_STEP_SECONDS = 60.0
FINAL = frozenset({ExitCode.INVALID, ExitCode.DIVERGED, ExitCode.MISMATCH, ExitCode.UNTRUSTED})
"""The exit codes after which another attempt cannot help."""


class Ours(Side):
    """The side of this repository: agents, with a run.json for each attempt."""

    name = "finetune-operator"

    def command(self, job: Job, attempt: Attempt, index: int) -> Command:
        pod = self._pod(job, attempt.number, index)
        pod.mkdir(parents=True)
        run_json = pod / "run.json"
        run_json.write_text(run_config(job, attempt).to_json())
        return Command(
            [sys.executable, "-m", "finetune_trainer.agent"],
            base_environment()
            | {
                contract.ENV_RUN_CONFIG: str(run_json),
                contract.ENV_WORKSPACE: str(job.workspace),
                contract.ENV_CLAIMS: str(job.folder / "claims"),
                contract.ENV_SCRATCH: str(pod / "scratch"),
                contract.ENV_TERMINATION_LOG: str(pod / "termination-log"),
                contract.ENV_RENDEZVOUS: f"127.0.0.1:{attempt.ports[0]}",
                contract.ENV_AGENT_PORT: str(attempt.ports[1 + index]),
                contract.ENV_GRACE: str(GRACE_SECONDS),
                contract.ENV_CPUS: "1",
                contract.ENV_POD_UID: f"uid-{attempt.number}-{index}",
                contract.ENV_POD_IP: "127.0.0.1",
                contract.ENV_POD_INDEX: str(index),
            },
        )

    def after(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> Next:
        if FINAL.intersection(exit_codes):
            return Next(False, attempt.micro_batch)
        is_too_large = ExitCode.OUT_OF_MEMORY in exit_codes and attempt.micro_batch > 1
        return Next(True, attempt.micro_batch // 2 if is_too_large else attempt.micro_batch)

    def checkpoints(self, job: Job) -> list[Path]:
        manifests = (job.workspace / FOLDER / "checkpoints").glob("step-*/manifest.json")
        return sorted((path.parent for path in manifests), key=_step_and_attempt)

    def result(self, job: Job) -> tuple[Path, Path]:
        run = job.workspace / FOLDER
        return run / "output", run / "start"

    def last_words(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> str:
        messages = self._messages(job, attempt.number)
        failed = [message for message in messages if message.error is not None]
        # A pod whose error has no time only repeats what another pod reported.
        first = min(failed, key=lambda message: message.error_time or float("inf"), default=None)
        return f"{first.exit_code}: {first.error}" if first else ""

    def told(self, job: Job) -> str:
        messages = [path.read_text() for path in sorted(job.folder.glob("attempt-*/pod-*/termination-log"))]
        logs = [path.read_text(errors="replace") for path in sorted(job.folder.glob("attempt-*-pod-*.log"))]
        records = [path.read_text() for path in (job.workspace / FOLDER).glob("*.jsonl")]
        return "\n".join((*messages, *logs, *records))

    @staticmethod
    def _pod(job: Job, attempt: int, index: int) -> Path:
        return job.folder / f"attempt-{attempt}" / f"pod-{index}"

    @staticmethod
    def _messages(job: Job, attempt: int) -> list[TerminationMessage]:
        """Return the termination messages of the pods that lived long enough to write one."""
        found = []
        for path in sorted((job.folder / f"attempt-{attempt}").glob("pod-*/termination-log")):
            with contextlib.suppress(ValidationError):
                found.append(TerminationMessage.model_validate_json(path.read_bytes()))
        return found


def run_config(job: Job, attempt: Attempt) -> RunConfig:
    """Return what the operator would write into run.json for the attempt."""
    return RunConfig(
        namespace="faults",
        job="tiny",
        uid="abcdef12",
        run=1,
        attempt=attempt.number,
        nonce=f"nonce-{attempt.number}",
        folder=FOLDER,
        task="CausalLM",
        model=contract.Source(uri=f"file://{workload.base_of(job.data)}"),
        dataset=contract.Dataset(
            source=contract.Source(uri=f"file://{workload.rows_of(job.data)}"),
            columns=contract.Columns(text="text"),
            evaluation_source=contract.Source(uri=f"file://{workload.evaluation_of(job.data)}"),
            max_leak_fraction=1.0,  # there are few different rows, so they repeat
        ),
        lora=contract.Lora(
            rank=workload.LORA_RANK,
            alpha=workload.LORA_ALPHA,
            dropout=workload.LORA_DROPOUT if job.has_dropout else 0.0,
        ),
        training=contract.Training(
            epochs=workload.EPOCHS,
            global_batch_size=workload.GLOBAL_BATCH,
            micro_batch_size=attempt.micro_batch,
            sequence_length=workload.SEQUENCE_LENGTH,
            learning_rate=workload.LEARNING_RATE,
            schedule="linear",
            warmup_fraction=workload.WARMUP_FRACTION,
            weight_decay=0.0,
            max_grad_norm=workload.MAX_GRAD_NORM,
            precision="fp32",
            seed=workload.SEED,
        ),
        zero_stage=workload.ZERO_STAGE,
        world=contract.World(nodes=attempt.world, processes_per_node=1, device="cpu"),
        metrics=("perplexity",),
        checkpoint=contract.Checkpointing(
            every_seconds=workload.SECONDS_BETWEEN_CHECKPOINTS, keep=workload.KEPT_CHECKPOINTS
        ),
        patience=contract.Patience(first_step=FIRST_STEP_SECONDS, step=PATIENCE_SECONDS, silent=PATIENCE_SECONDS),
    )


def _step_and_attempt(folder: Path) -> tuple[int, int]:
    step, _, attempt = folder.name.removeprefix("step-").partition("-a")
    return int(step), int(attempt)
