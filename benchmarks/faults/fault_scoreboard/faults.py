"""The twelve faults: what happens to a job, and how it should end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WORLD = 2
"""The number of pods, unless a fault changes it. Each has one rank."""
FAULT_STEP = 25
"""The number of optimizer steps of every rank after which a fault happens."""
LATE_SECONDS = 60.0
FULL_SECONDS = 3.0
"""Seconds for which the disk is full."""
MEMORY_LIMIT_ROWS = 2
"""The largest micro-batch for which there is memory. The job begins with twice as many rows."""
BAD_ROW = 137
"""The line number of the training row whose loss is not finite."""


class Act(StrEnum):
    """An action on the pods from outside, or on a rank from inside."""

    KILL_RANK = "kill a rank"
    KILL_POD = "kill a pod"
    KILL_ALL = "kill all pods"
    TERMINATE_ONE = "terminate a pod"
    TERMINATE_ALL = "terminate all pods"
    TRUNCATE = "kill all pods and truncate the newest checkpoint"
    FREEZE = "freeze a rank"
    START_LATE = "start rank 0 late"
    KILL_WHILE_SAVING = "kill rank 0 in a write of weights"
    EXHAUST_MEMORY = "limit the memory"
    FILL_DISK = "fill the disk"
    SPOIL_ROW = "spoil a row"


INSIDE = frozenset({Act.KILL_WHILE_SAVING, Act.EXHAUST_MEMORY, Act.FILL_DISK})
"""The actions that `rank_hook` does in the rank's own process."""


@dataclass(frozen=True)
class Fault:
    """A row of the scoreboard."""

    name: str
    what: str
    act: Act
    world_after: int = WORLD
    """The number of ranks of the attempts after the fault."""
    has_dropout: bool = True
    """Whether the adapter has dropout. It is off if the right end needs a smaller micro-batch, which would draw other
    values."""
    changes_model: bool = False
    """Whether the right end is a model that differs from the undisturbed run's, or no model."""
    must_tell: str | None = None
    """A regular expression for what a user must be able to read afterwards."""


FAULTS = (
    Fault("rank-killed", "SIGKILL to one rank", Act.KILL_RANK),
    Fault("pod-killed", "SIGKILL to all processes of a pod", Act.KILL_POD),
    Fault("one-terminated", "SIGTERM to one pod", Act.TERMINATE_ONE),
    Fault("all-terminated", "SIGTERM to all pods", Act.TERMINATE_ALL),
    Fault("checkpoint-truncated", "all killed, largest file of the newest checkpoint cut in half", Act.TRUNCATE),
    Fault("killed-while-saving", "rank 0 killed in the middle of a file of weights", Act.KILL_WHILE_SAVING),
    Fault("other-world", "all killed, resumed on 1 rank instead of 2", Act.KILL_ALL, world_after=1),
    Fault(
        "nan-row",
        "a row whose loss is NaN",
        Act.SPOIL_ROW,
        changes_model=True,
        must_tell=rf"rows\.jsonl:{BAD_ROW}\b",
    ),
    Fault(
        "frozen-rank",
        "SIGSTOP to rank 1",
        Act.FREEZE,
        must_tell=r'"slowestRank":1\b|(?i:\brank ?1\b[^\n]*(frozen|hung|silent|no sign|no progress|timed? ?out))',
    ),
    Fault(
        "out-of-memory", "micro-batches of more than 2 rows run out of memory", Act.EXHAUST_MEMORY, has_dropout=False
    ),
    Fault("disk-full", "no room for weights for 3 s", Act.FILL_DISK),
    Fault("rank-0-late", "rank 0's pod starts 60 s after the other", Act.START_LATE),
)


def fault_named(name: str) -> Fault:
    """Return the fault with this name. Raises ValueError if there is none."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise ValueError(f"there is no fault {name!r}; choose of {', '.join(fault.name for fault in FAULTS)}")
