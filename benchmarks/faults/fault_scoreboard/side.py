"""What a side of the scoreboard has to answer: how its pods start, and what comes after they ended."""

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
"""Between SIGTERM and SIGKILL, for both sides."""
PATIENCE_SECONDS = 20.0
"""How long a side waits for a rank that does nothing, as it is configured."""
MAX_RESTARTS = 2


@dataclass(frozen=True)
class Attempt:
    """One launch of all pods; each has one rank."""

    number: int
    world: int = WORLD
    micro_batch: int = MICRO_BATCH
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_ports(1 + WORLD)))
    """The ports of this machine that the attempt uses: the rendezvous's, then one for each pod."""


@dataclass(frozen=True)
class Job:
    """One training with at most one fault, in a folder of its own."""

    folder: Path
    fault: Fault | None
    has_dropout: bool = True

    @property
    def data(self) -> Path:
        """Base model and rows."""
        return self.folder / "data"

    @property
    def workspace(self) -> Path:
        """The volume that all pods share."""
        return self.folder / "workspace"

    @property
    def steps(self) -> Path:
        """Where ranks leave the times of their steps."""
        return self.folder / "steps"

    @property
    def begun(self) -> Path:
        """Says when the fault began."""
        return self.folder / "begun"

    def log(self, attempt: int, index: int) -> Path:
        """What the processes of a pod print."""
        return self.folder / f"attempt-{attempt}-pod-{index}.log"


@dataclass(frozen=True)
class Command:
    """Of a pod."""

    arguments: Sequence[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Next:
    """What follows on an attempt that failed."""

    again: bool
    micro_batch: int


class Side(ABC):
    """A way to train."""

    name: str

    @abstractmethod
    def command(self, job: Job, attempt: Attempt, index: int) -> Command:
        """How the pod starts."""

    @abstractmethod
    def after(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> Next:
        """Called when not all pods of an attempt ended with 0."""

    @abstractmethod
    def checkpoints(self, job: Job) -> list[Path]:
        """Folders of the whole checkpoints, the newest last."""

    @abstractmethod
    def result(self, job: Job) -> tuple[Path, Path]:
        """The saved adapter and its base model."""

    @abstractmethod
    def last_words(self, job: Job, attempt: Attempt, exit_codes: Sequence[int]) -> str:
        """The sentence with which the attempt's first failure is reported."""

    @abstractmethod
    def told(self, job: Job) -> str:
        """All that a user can read when the job is over."""


def base_environment() -> dict[str, str]:
    """Of all pods: this process's, on one core, without a network."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "FAULT_"))}
    return variables | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
    }
