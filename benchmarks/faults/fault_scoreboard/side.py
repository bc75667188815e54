"""The interface of a side of the scoreboard: how its pods start, and what follows when they have ended."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_scoreboard.faults import WORLD, Fault
from fault_scoreboard.workload import MICRO_BATCH
from finetune_operator.local.ports import free_ports

GRACE_SECONDS = 20.0
"""Seconds between SIGTERM and SIGKILL, for both sides."""
PATIENCE_SECONDS = 20.0
"""Seconds that a side is configured to wait for a rank that does nothing."""
MAX_RESTARTS = 2


@dataclass(frozen=True)
class Attempt:
    """One launch of all pods. Each pod has one rank."""

    number: int
    world: int = WORLD
    micro_batch: int = MICRO_BATCH
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_ports(1 + WORLD)))
    """The ports of this machine that the attempt uses: that of the rendezvous, then one for each pod."""


@dataclass(frozen=True)
class Job:
    """One training with at most one fault, in its own folder."""

    folder: Path
    fault: Fault | None
    has_dropout: bool = True

    @property
    def data(self) -> Path:
        """The folder of the base model and the rows."""
        return self.folder / "data"

    @property
    def workspace(self) -> Path:
        """The folder that represents the volume that all pods share."""
        return self.folder / "workspace"

    @property
    def steps(self) -> Path:
        """The folder in which ranks record the times of their steps."""
        return self.folder / "steps"

    @property
    def begun(self) -> Path:
        """The file with the time at which the fault began."""
        return self.folder / "begun"

    def log(self, attempt: int, index: int) -> Path:
        """Return the file with the output of a pod's processes."""
        return self.folder / f"attempt-{attempt}-pod-{index}.log"


@dataclass(frozen=True)
class Command:
    """The command of a pod."""

    arguments: Sequence[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Next:
    """What follows a failed attempt."""

    again: bool
    micro_batch: int


class Side(ABC):
    """A way to train."""

    name: str

    @abstractmethod
    def command(self, job: Job, attempt: Attempt, index: int) -> Command:
        """Return the command with which the pod starts."""

    @abstractmethod
    def after(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> Next:
        """Return what follows an attempt in which not all pods ended with 0."""

    @abstractmethod
    def checkpoints(self, job: Job) -> list[Path]:
        """Return the folders of the complete checkpoints, the newest last."""

    @abstractmethod
    def result(self, job: Job) -> tuple[Path, Path]:
        """Return the saved adapter and its base model."""

    @abstractmethod
    def last_words(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> str:
        """Return the message that reports the attempt's first failure."""

    @abstractmethod
    def told(self, job: Job) -> str:
        """Return all that a user can read after the end of the job."""


def base_environment() -> dict[str, str]:
    """Return the environment of all pods: that of this process, with one core and without a network."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "FAULT_"))}
    return variables | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
    }
