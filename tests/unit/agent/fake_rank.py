"""What the ranks of these tests can do. They write the same files as a real rank."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from finetune_trainer import contract
from finetune_trainer.contract import Phase, RankExit, RankStatus, Result, RunConfig

SCRATCH = Path(os.environ[contract.ENV_SCRATCH])
RANK = int(os.environ["RANK"])
WORLD = int(os.environ["WORLD_SIZE"])
CONFIG = RunConfig.model_validate_json(Path(os.environ[contract.ENV_RUN_CONFIG]).read_bytes())
RESULT = Result(
    path="runs/1/output", digest="d", base_metrics={}, metrics={"f1": 0.5}, step=9, trainable_parameters=1, parameters=2
)


def write(name: str, message: contract.Message) -> None:
    temporary = SCRATCH / f"{name}.new"
    temporary.write_text(message.to_json())
    temporary.replace(SCRATCH / name)


def live(step: int = 0) -> None:
    status = RankStatus(
        rank=RANK,
        world=WORLD,
        config_digest=CONFIG.digest,
        backend="gloo",
        zero_stage=2,
        phase=Phase.TRAIN,
        step=step,
        heartbeat=time.time(),
    )
    write(contract.rank_status_file(RANK), status)


def leave(exit_code: int, **fields: Any) -> NoReturn:
    fields = {"world": WORLD, "config_digest": CONFIG.digest, "step": 9} | fields
    write(contract.rank_exit_file(RANK), RankExit(rank=RANK, exit_code=exit_code, **fields))
    sys.exit(exit_code)


def done() -> NoReturn:
    leave(0, result=RESULT if RANK == 0 else None)


def wait_for(name: str) -> None:
    """Wait until a file of that name exists in the scratch folder."""
    while not (SCRATCH / name).exists():
        time.sleep(0.01)


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
