"""What the ranks say to each other outside the gradients: waiting for work of one rank, errors, stopping, small sums.

Waiting and errors go through the rendezvous store and not through collectives: a collective gives up after minutes,
but tokenising may take hours; and a rank that failed never comes to a collective for which its siblings wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, RunConfig
from finetune_trainer.errors import MismatchError, StoppedError, TrainingError, UntrustedError
from finetune_trainer.ranks.activity import Activity
from finetune_trainer.ranks.rendezvous import wait_for_store

T = TypeVar("T")
POLL_SECONDS = (0.002, 0.1)
"""First and longest pause between two looks at the store."""
TELLING_SECONDS = 10.0
PARTING_SECONDS = 60.0
PARTING_IN_FAILURE_SECONDS = 5.0
"""Some may wait in a collective, and do not come."""
STOP_KEY = "stop"
"""In the store: a rank that waits for another was asked to stop."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Of one collective; the longest wait between two is a step's difference between ranks, or the writing of one shard."""


class SiblingError(Exception):
    """Another rank failed; this one ends for the same reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """The exit code of a rank that ended with this error; 1 for what has no class of its own."""
    if isinstance(error, TrainingError | SiblingError):
        return int(error.exit_code)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return int(ExitCode.OUT_OF_MEMORY)
    return 1


@dataclass
class Ranks:
    """This rank among its siblings."""

    store: dist.Store
    rank: int
    world: int
    scratch: Path
    """Of this pod; a stop request lies there."""
    device: torch.device
    on_failure: Callable[[Exception], object] = lambda error: None
    """Called with this rank's own error before its siblings hear of it: what they do then may end this process."""
    activity: Activity = field(default_factory=Activity)
    is_beside_store: bool = False
    """This is rank 0's pod."""
    _agreements: int = field(default=0, init=False)

    def first(self, action: Callable[[], T]) -> T | None:
        """Let rank 0 act while the others wait, however long; its result there, None elsewhere. An error of rank 0 is
        raised on every rank."""
        return self.every(action if self.rank == 0 else lambda: None)

    def every(self, action: Callable[[], T]) -> T:
        """Act on every rank and wait until all have done so. If any failed, every rank raises: the failed ones their
        own error, the others a SiblingError with its words and its exit code."""
        self._agreements += 1
        done, told, failure = (f"{name}/{self._agreements}" for name in ("done", "told", "failure"))
        try:
            result = action()
        except Exception as error:
            self.on_failure(error)
            self.store.set(failure, json.dumps([self.rank, exit_code_of(error), str(error) or repr(error)]))
            self._tell(told)
            raise
        self.store.add(done, 1)
        pause, longest = POLL_SECONDS
        with self.activity.waiting():
            while self.store.add(done, 0) < self.world:
                if self.store.check([failure]):
                    rank, exit_code, message = json.loads(self.store.get(failure))
                    self.store.add(told, 1)
                    raise SiblingError(f"rank {rank} failed: {message}", exit_code)
                if self.stop_requested:
                    self.store.set(STOP_KEY, "")
                time.sleep(pause)
                pause = min(2 * pause, longest)
        return result

    def outcomes(self, action: Callable[[], T]) -> tuple[list[T], str | None]:
        """Act on every rank and wait until all have done so. Returns what each has got, as JSON can say it, by rank, on
        every rank; or the words of the first that failed, which ends nothing."""
        self._agreements += 1
        mine, all_of_them = f"outcome/{self._agreements}/{self.rank}", f"outcomes/{self._agreements}"
        try:
            outcome: list[Any] = [action(), None]
        except Exception as error:
            known = isinstance(error, OSError | UntrustedError)
            outcome = [None, str(error) if known else f"{type(error).__name__}: {error}"]
        self.store.set(mine, json.dumps(outcome))
        if self.rank == 0:
            told = [json.loads(self.store.get(f"outcome/{self._agreements}/{rank}")) for rank in range(self.world)]
            self.store.set(all_of_them, json.dumps(told))
        with self.activity.waiting():
            answers = json.loads(self.store.get(all_of_them))
        failure = next((f"{words} (rank {rank})" for rank, (_, words) in enumerate(answers) if words is not None), None)
        return [value for value, _ in answers], failure

    def _tell(self, told: str) -> None:
        """Give the others time to read the failure: when this process ends, the store may end with it."""
        self.store.add(told, 1)
        deadline = time.monotonic() + TELLING_SECONDS
        while self.store.add(told, 0) < self.world and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS[-1])

    def part(self, seconds: float = PARTING_SECONDS) -> None:
        """The last that a rank does here. With rank 0's pod the store ends, at which the others may still look: so its
        ranks wait for them, at most so long."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(dist.DistError):  # it has ended
            self.store.add("parted", 1)
            while self.is_beside_store and self.store.add("parted", 0) < self.world and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS[0])

    def agreed(self, name: str, value: str) -> str:
        """Rank 0's value."""
        if self.rank == 0:
            self.store.set(name, value)
        return self.store.get(name).decode()

    def sum(self, *values: float) -> list[float]:
        """Sums over all ranks, in one collective. Whatever is not finite anywhere is not finite in the sum."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(totals)
        return totals.tolist()

    @property
    def stop_requested(self) -> bool:
        """Whether this pod was asked to stop."""
        return (self.scratch / contract.STOP_FILE).exists()

    def stop_together(self, alone: bool = False) -> None:
        """Raise StoppedError on all ranks if any was asked to stop; on this one, if it acts `alone` and the others
        wait."""
        heard = alone and self.store.check([STOP_KEY])
        if heard or (self.stop_requested if alone else self.sum(self.stop_requested)[0]):
            raise_stopped()

    def share_buffers(self, model: nn.Module) -> None:
        """Give rank 0's buffers to all. Running statistics are those of each rank's own rows; a checkpoint and a result
        hold one rank's, so the others' must never be measured with."""
        for buffer in persistent_buffers(getattr(model, "module", model)).values() if self.world > 1 else ():
            dist.broadcast(buffer, src=0)


def persistent_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a model holds besides its parameters, such as the running statistics of batch normalisation."""
    persistent = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def join(config: RunConfig, rank: int, world: int, local_rank: int, scratch: Path) -> Ranks:
    """Meet the other ranks, as the environment says (`launch.place`), and set up this rank's device. DS_ACCELERATOR
    must be set.

    Raises MismatchError when the pod has fewer GPUs than processes.
    """
    import deepspeed

    if config.world.device == "cuda":
        if torch.cuda.device_count() <= local_rank:
            raise MismatchError(
                f"the pod shows {torch.cuda.device_count()} GPUs to its processes, but the run was planned for "
                f"{config.world.processes_per_node}; check resources.gpusPerNode and the GPU driver of the node"
            )
        torch.cuda.set_device(local_rank)
        device, backend = torch.device("cuda", local_rank), "nccl"
    else:
        # DeepSpeed's shared-memory collectives would be compiled in the pod.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        device, backend = torch.device("cpu"), "gloo"
    if rank > 0:
        wait_for_store((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
    store, *_ = next(dist.rendezvous("env://", rank, world, timeout=COLLECTIVE_TIMEOUT))
    _gather(dist.PrefixStore("gather", store), world)
    dist.init_process_group(
        backend, store=dist.PrefixStore("collectives", store), rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT
    )
    deepspeed.init_distributed(dist_backend=backend)
    beside_store = rank == 0 or os.environ.get("GROUP_RANK") == "0"
    return Ranks(dist.PrefixStore("finetune", store), rank, world, scratch, device, is_beside_store=beside_store)


def _gather(store: dist.Store, world: int) -> None:
    """Return when all ranks have come. Without limit, as `wait_for_store`: an image may take long to come."""
    store.add("come", 1)
    pause, longest = POLL_SECONDS
    while store.add("come", 0) < world:
        time.sleep(pause)
        pause = min(2 * pause, longest)


def raise_stopped() -> None:
    """Raises StoppedError."""
    raise StoppedError("stopped on request before the training was complete")
