"""What really happened to each attempt's Job, which only the simulation knows; the ledger is checked against it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from finetune_trainer.contract import FailureClass


@dataclass
class History:
    """What happened to each Job, by its UID."""

    classes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The classes of the failures that the simulation caused."""
    attested: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The indexes that ended with code 0 and a valid termination message; for index 0 this includes a result."""
    checkpoints: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The step of the newest checkpoint that rank 0's agent has reported."""
    last_checkpoints: dict[str, tuple[float, int]] = field(default_factory=dict)
    """When rank 0's pod ended with a termination message that has a checkpoint, and the checkpoint's step."""

    silenced: dict[str, set[str]] = field(default_factory=dict)
    """The nodes that lost power with a pod of the Job, whose other pods then reported a silent rank."""

    def happened(self, job_uid: str | None, *classes: FailureClass) -> None:
        """Record an event that may end the attempt with one of these classes."""
        self.classes[job_uid or ""].update(map(str, classes))
