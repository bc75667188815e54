"""One rank of the training, which the agent starts: `python -m finetune_trainer.rank`.

It attests its world size and its configuration, trains, and leaves a `RankExit` in the pod's scratch folder. If it gets
SIGTERM, another rank has failed or the time to stop is over: the default action ends the process at once, even inside a
collective, and nothing half-done is saved.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, RankExit, RankStatus, Result, RunConfig
from finetune_trainer.errors import DivergedError, MismatchError, TrainingError
from finetune_trainer.pod.paths import Paths
from finetune_trainer.pod.scratch import write_atomically
from finetune_trainer.ranks.watch import Ending, Watch

SIBLING_IS_GONE = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|Socket Timeout|remote process (has )?(exited|terminated)",
    re.IGNORECASE,
)
"""Matches the messages of gloo and NCCL when the other end of a connection has ended."""


def main() -> int:
    """Run this rank to its end, leave its `RankExit`, and return the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0o002)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    config = RunConfig.model_validate_json(Path(os.environ[contract.ENV_RUN_CONFIG]).read_text())
    paths = Paths.from_environment()
    ended = RankExit(rank=rank, exit_code=ExitCode.DONE, world=world, config_digest=config.digest)
    exit_file = paths.scratch / contract.rank_exit_file(rank)
    (paths.scratch / contract.rank_started_file(rank)).touch()

    def leave(**fields: object) -> int:
        left = ended.model_copy(update={**fields, "step": _last_step(paths, rank)})
        write_atomically(exit_file, left.to_json())
        return left.exit_code

    def fail(error: Exception) -> int:
        """Write the exit file once: it is already there if the error was reported to the other ranks."""
        if exit_file.exists():
            return RankExit.model_validate_json(exit_file.read_bytes()).exit_code
        return leave(**_failure(error))

    def end(ending: Ending) -> None:
        """Write the exit file, unless there is one, and end the process. The watch's thread calls this."""
        sys.stderr.write(f"{ending.sentence}\n")
        if not exit_file.exists():
            error_time = None if ending.is_symptom else time.time()
            slowest = ending.slowest_rank
            leave(exit_code=ending.exit_code, error=ending.sentence, error_time=error_time, slowest_rank=slowest)
        os._exit(ending.exit_code)

    try:
        return leave(result=run(config, paths, rank, world, fail, end))
    except Exception as error:
        return fail(error)


def run(
    config: RunConfig,
    paths: Paths,
    rank: int,
    world: int,
    on_failure: Callable[[Exception], object],
    end: Callable[[Ending], object],
) -> Result | None:
    """Join the other ranks and train. Returns the result on rank 0.

    An error that is reported to the other ranks is passed to `on_failure` before. `end` ends the process if the ranks
    wait for each other forever. Raises MismatchError, and the errors of the training.
    """
    if world != config.world.size:
        raise MismatchError(f"rank {rank} is one of {world} processes, but the run was planned for {config.world.size}")
    # DeepSpeed reads this variable when it is imported.
    os.environ["DS_ACCELERATOR"] = config.world.device
    # The imports create a million objects, and all of them stay: searching them for garbage takes a second.
    gc.disable()
    import datasets
    import torch
    import transformers

    from finetune_trainer.ranks.distributed import PARTING_IN_FAILURE_SECONDS, SiblingError, join
    from finetune_trainer.training.loop import train
    from finetune_trainer.training.report import Report

    gc.freeze()
    gc.enable()
    (paths.scratch / contract.rank_imported_file(rank)).touch()
    # The agent requests no stack from here on. If a library aborts, its own message should be the log's last line.
    faulthandler.disable()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    ranks = join(config, rank, world, int(os.environ["LOCAL_RANK"]), paths.scratch)
    ranks.on_failure = on_failure
    stacks = paths.run(config) / "attempts" / str(config.attempt) / f"rank-{rank}.stacks.txt"
    rendezvous: Any = ranks.store
    store = torch.distributed.PrefixStore("watch", rendezvous.underlying_store.clone())
    beat_file = paths.scratch / contract.rank_beat_file(rank)
    stop_requested = (paths.scratch / contract.STOP_FILE).exists
    try:
        with (
            Report(config, paths, rank, torch.distributed.get_backend(), ranks.activity) as report,
            Watch(ranks.activity, store, rank, world, config.patience, stop_requested, stacks, beat_file, end),
        ):
            ranks.every(lambda: _attest(config, ranks.agreed("config", config.digest)))
            result = train(config, paths, ranks, report)
    except (TrainingError, SiblingError) as error:  # all ranks end with one of these, mostly at the same time
        on_failure(error)
        ranks.part(PARTING_IN_FAILURE_SECONDS)
        raise
    ranks.part()
    torch.distributed.destroy_process_group()
    return result


def _attest(config: RunConfig, first_digest: str) -> None:
    if config.digest != first_digest:
        raise MismatchError(
            f"this rank was given configuration {config.digest[:12]}, but rank 0 was given {first_digest[:12]}"
        )


def _failure(error: Exception) -> dict[str, object]:
    """Return the fields of a `RankExit` for an error.

    An error whose message is for the user is printed without a traceback; any other is printed with it.
    """
    from finetune_trainer.ranks.distributed import SiblingError, exit_code_of

    sentence = str(error)
    if not isinstance(error, TrainingError | SiblingError):
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {error}"
    # Only the rank that failed by itself reports a time: another rank may write what it noticed of it a moment earlier.
    noticed = isinstance(error, SiblingError)
    if isinstance(error, RuntimeError) and SIBLING_IS_GONE.search(sentence):
        noticed, sentence = True, "The process of another rank is gone; the log has what the collective said."
    error_time = None if noticed else time.time()
    # A file name in the message need not be Unicode, but JSON must be.
    sentence = sentence.encode(errors="backslashreplace").decode()
    sys.stderr.write(f"{sentence}\n")
    rows = error.rows if isinstance(error, DivergedError) else ()
    return {"exit_code": exit_code_of(error), "error": sentence, "error_time": error_time, "rows": rows}


def _last_step(paths: Paths, rank: int) -> int:
    """Return the step that the rank reported last."""
    try:
        return RankStatus.model_validate_json((paths.scratch / contract.rank_status_file(rank)).read_bytes()).step
    except (OSError, ValidationError):
        return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the destructors of a process group wait for ranks that may be gone.
    os._exit(code)
