"""The ranks' communication besides gradients: waiting for one rank's work, errors, stopping, and small sums.

Waiting and errors use the rendezvous store instead of collectives. A collective times out after minutes, but tokenising
may take hours; and a rank that failed never joins a collective for which the other ranks wait.
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
"""The first and the longest pause between two polls of the store, in seconds."""
TELLING_SECONDS = 10.0
PARTING_SECONDS = 60.0
PARTING_IN_FAILURE_SECONDS = 5.0
"""Shorter than after a success, because some ranks may wait in a collective and never part."""
STOP_KEY = "stop"
"""The store's key that is set if a rank that waits for another was asked to stop."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The timeout of one collective. The longest waits come from different step times of the ranks, or from the writing of
one shard."""


class SiblingError(Exception):
    """Another rank failed, and this one ends for the same reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a rank that ended with this error; 1 if the error has no code of its own."""
    if isinstance(error, TrainingError | SiblingError):
        return int(error.exit_code)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return int(ExitCode.OUT_OF_MEMORY)
    return 1


@dataclass
class Ranks:
    """The rank of this process, and its means to communicate with the other ranks."""

    store: dist.Store
    rank: int
    world: int
    scratch: Path
    """The scratch folder of this pod, which contains the stop file if a stop was requested."""
    device: torch.device
    on_failure: Callable[[Exception], object] = lambda error: None
    """The function that is called with this rank's own error before the other ranks learn of it: their reaction may end
    this process."""
    activity: Activity = field(default_factory=Activity)
    is_beside_store: bool = False
    """Whether this rank is in rank 0's pod, which also runs the store."""
    _agreements: int = field(default=0, init=False)

    def first(self, action: Callable[[], T]) -> T | None:
        """Run `action` on rank 0 while the others wait without limit. Returns its result there, and None on the others.

        An error of rank 0 is raised on every rank.
        """
        return self.every(action if self.rank == 0 else lambda: None)

    def every(self, action: Callable[[], T]) -> T:
        """Run `action` on every rank and wait until all have done so.

        If any rank failed, every rank raises: the failed ones their own error, the others a SiblingError with its
        message and exit code.
        """
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
        """Run `action` on every rank and return all results, by rank, or the message of the first rank that failed.

        Every rank returns the same once all have done so. A failure is not raised. The results must be serialisable as
        JSON.
        """
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
        """Give the other ranks time to read the failure: when this process ends, the store may end with it."""
        self.store.add(told, 1)
        deadline = time.monotonic() + TELLING_SECONDS
        while self.store.add(told, 0) < self.world and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS[-1])

    def part(self, seconds: float = PARTING_SECONDS) -> None:
        """Leave the store, as a rank's last action.

        The store ends with rank 0's pod, while the other ranks may still poll it. The ranks of that pod therefore wait
        for all others, for at most `seconds`.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(dist.DistError):  # the store has ended
            self.store.add("parted", 1)
            while self.is_beside_store and self.store.add("parted", 0) < self.world and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS[0])

    def agreed(self, name: str, value: str) -> str:
        """Return rank 0's value on every rank."""
        if self.rank == 0:
            self.store.set(name, value)
        return self.store.get(name).decode()

    def sum(self, *values: float) -> list[float]:
        """Return the sums over all ranks, in one collective.

        A value that is not finite on any rank makes its sum not finite.
        """
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(totals)
        return totals.tolist()

    @property
    def stop_requested(self) -> bool:
        """Whether this pod was asked to stop."""
        return (self.scratch / contract.STOP_FILE).exists()

    def stop_together(self, alone: bool = False) -> None:
        """Raise StoppedError on all ranks if any was asked to stop.

        With `alone`, this rank acts while the others wait, and only this rank raises.
        """
        heard = alone and self.store.check([STOP_KEY])
        if heard or (self.stop_requested if alone else self.sum(self.stop_requested)[0]):
            raise_stopped()

    def share_buffers(self, model: nn.Module) -> None:
        """Broadcast rank 0's buffers to all ranks.

        Running statistics depend on each rank's own rows. A checkpoint and a result contain those of one rank, so a
        model must never be measured with the others'.
        """
        for buffer in persistent_buffers(getattr(model, "module", model)).values() if self.world > 1 else ():
            dist.broadcast(buffer, src=0)


def persistent_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers in a model's state dict, such as the running statistics of batch normalisation."""
    persistent = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def join(config: RunConfig, rank: int, world: int, local_rank: int, scratch: Path) -> Ranks:
    """Meet the other ranks as the environment specifies (`launch.place`), and set up this rank's device.

    DS_ACCELERATOR must be set. Raises MismatchError if the pod has fewer GPUs than processes.
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
        # Otherwise DeepSpeed would compile its shared-memory collectives in the pod.
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
    """Wait until all ranks have come.

    Like `wait_for_store`, this has no time limit, because an image may take long to pull.
    """
    store.add("come", 1)
    pause, longest = POLL_SECONDS
    while store.add("come", 0) < world:
        time.sleep(pause)
        pause = min(2 * pause, longest)


def raise_stopped() -> None:
    """Raise StoppedError."""
    raise StoppedError("stopped on request before the training was complete")
