"""What really happened to each attempt's Job, as only the simulation knows it; the ledger's words are held to it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from finetune_trainer.contract import FailureClass


@dataclass
class History:
    """By the UID of the attempt's Job."""

    classes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Of the failures that were brought about."""
    attested: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Indexes that ended with 0 and the right words; 0 only with a result."""
    checkpoints: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Step of the newest one that rank 0's agent has told of."""
    last_checkpoints: dict[str, tuple[float, int]] = field(default_factory=dict)
    """When rank 0's pod ended with its word of one, and its step."""

    silenced: dict[str, set[str]] = field(default_factory=dict)
    """Nodes that lost their power with a pod of the Job, whose other pods then said that it is silent."""

    def happened(self, job_uid: str | None, *classes: FailureClass) -> None:
        """Something that ends an attempt as one of these classes."""
        self.classes[job_uid or ""].update(map(str, classes))
