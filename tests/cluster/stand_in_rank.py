"""A stand-in for `finetune_trainer.rank` in tests without training: a rank that is ready as soon as its pod runs.

It listens on rank 0's port, reports and ends as a rank does, and follows the orders that a test writes as files to
`orders/<job>` in the workspace:

- hold           it does not report yet
- finish         it ends with a result when all ranks are ready
- linger         it ignores a request to stop
- miss-rank-0    the other ranks end as if rank 0 had been silent for long
- take-memory-N  in attempt N, rank 0 allocates memory without limit
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from fake_rank import CONFIG, RANK, SCRATCH, WORLD, leave, live, write

from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, Progress, Result

WORKSPACE = Path(os.environ[contract.ENV_WORKSPACE])
ORDERS = WORKSPACE / "orders" / CONFIG.job
MET = WORKSPACE / "met" / CONFIG.nonce
RESULT = Result(
    path=str(CONFIG.output),
    digest="0" * 64,
    base_metrics={"f1": 0.1},
    metrics={"f1": 0.5},
    step=9,
    trainable_parameters=1,
    parameters=2,
)


def is_asked(order: str) -> bool:
    return (ORDERS / order).exists()


def is_stopped() -> bool:
    return (SCRATCH / contract.STOP_FILE).exists() and not is_asked("linger")


def wait_for_rank_zero(address: tuple[str, int]) -> None:
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            pause()
        else:
            return


def meet() -> bool:
    """Return whether all ranks of the attempt are ready."""
    MET.mkdir(parents=True, exist_ok=True)
    (MET / str(RANK)).touch()
    return len(list(MET.iterdir())) == WORLD


def pause() -> None:
    time.sleep(0.05)


def main() -> None:
    (SCRATCH / f"rank-{RANK}.pid").write_text(str(os.getpid()))
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if RANK == 0:
        listener = socket.create_server(("", port), backlog=64)
    else:
        wait_for_rank_zero((host, port))
    while is_asked("hold"):
        pause()
    live(step=1)
    if RANK == 0:
        write(contract.PROGRESS_FILE, Progress(step=1, total_steps=9, epoch=0.1, loss=1.0, eta_seconds=60))
    taken = []
    while not (meet() and is_asked("finish")):
        if is_stopped():
            leave(ExitCode.PREEMPTED, error="stopped on request", step=1)
        if RANK != 0 and is_asked("miss-rank-0"):
            sentence = "Nothing has moved for 30 s in phase train: rank 0 does not even say that it lives."
            leave(ExitCode.HUNG, error=sentence, error_time=time.time(), slowest_rank=0, step=1)
        if RANK == 0 and is_asked(f"take-memory-{CONFIG.attempt}"):
            taken.append(b"x" * 2**24)
        pause()
    if RANK == 0:
        listener.close()
    leave(ExitCode.DONE, result=RESULT if RANK == 0 else None)


main()
