"""The side of Hugging Face's Trainer: torchrun with DeepSpeed, in a Job that restarts all pods when one fails."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fault_scoreboard import workload
from fault_scoreboard.side import GRACE_SECONDS, PATIENCE_SECONDS, Attempt, Command, Job, Next, Side, base_environment

SCRIPT = Path(__file__).parents[1] / "hugging_face_script.py"
ERROR = re.compile(r"^(?:\[rank\d+\]: )?((?:[\w.]+(?:Error|Exception|Timeout|Interrupt)): .*)$", re.MULTILINE)
MAX_ERROR = 200
FIRST_FAILURE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: \d+")


class HuggingFace(Side):
    """The Hugging Face side. This class has the settings of its manifest; the others are in its script."""

    name = "Hugging Face Trainer"

    def command(self, job: Job, attempt: Attempt, index: int) -> Command:
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", str(attempt.world), "--node-rank", str(index), "--nproc-per-node", "1"),
            *("--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", str(attempt.ports[0])),
            *("--max-restarts", "0", "--shutdown-timeout", str(int(GRACE_SECONDS - 5))),
        ]
        script = [
            *(str(SCRIPT), "--base", str(workload.base_of(job.data)), "--rows", str(workload.rows_of(job.data))),
            *("--evaluation", str(workload.evaluation_of(job.data)), "--output", str(job.workspace / "output")),
            *("--dropout", str(workload.LORA_DROPOUT if job.has_dropout else 0.0)),
            *("--collective-timeout", str(int(PATIENCE_SECONDS))),
        ]
        return Command([*launcher, *script], base_environment())

    def after(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> Next:
        return Next(True, attempt.micro_batch)

    def checkpoints(self, job: Job) -> list[Path]:
        complete = (job.workspace / "output").glob("checkpoint-*/trainer_state.json")
        return sorted((path.parent for path in complete), key=lambda path: int(path.name.partition("-")[2]))

    def result(self, job: Job) -> tuple[Path, Path]:
        return job.workspace / "output" / "final", workload.base_of(job.data)

    def last_words(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> str:
        """Return the first error in the log of each pod. The logs do not show which of them was the cause."""
        words = []
        for index in range(attempt.world):
            text = job.log(attempt.number, index).read_text(errors="replace")
            errors = [error for error in ERROR.findall(text) if "ChildFailedError" not in error]
            codes = [f"its rank ended with {code}" for code in FIRST_FAILURE.findall(text)]
            if found := (*errors, *codes):
                words.append(f"pod {index}: {found[0][:MAX_ERROR]}")
        return "; ".join(words)

    def told(self, job: Job) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(job.folder.glob("attempt-*-pod-*.log")))
