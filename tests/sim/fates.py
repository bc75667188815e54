"""The fates of a gang's pods: all train to their end, or one of them fails in any of the possible ways."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.contract import FailureClass

When = Literal["start", "load", "train", "end"]
Word = Literal["full", "none", "nonsense", "unattested", "wrong world", "no result"]


@dataclass(frozen=True)
class Failure:
    """A way in which a pod fails, and the class that the ledger must give it."""

    name: str
    exit_code: int
    failure: FailureClass
    when: tuple[When, ...] = ("start", "load", "train", "end")
    word: Word = "full"
    reason: str | None = None


FAILURES = (
    Failure("crash", 1, FailureClass.INFRASTRUCTURE),
    Failure("crash without a word", 1, FailureClass.INFRASTRUCTURE, word="none"),
    Failure("nonsense", 1, FailureClass.INFRASTRUCTURE, word="nonsense"),
    Failure("preempted", 75, FailureClass.PREEMPTED, ("load", "train")),
    Failure("wrong data", 76, FailureClass.INVALID, ("start", "load")),
    Failure("diverged", 77, FailureClass.DIVERGED, ("train",)),
    Failure("out of memory", 78, FailureClass.OUT_OF_MEMORY, ("load", "train", "end")),
    Failure("OOMKilled", 137, FailureClass.OUT_OF_MEMORY, ("load", "train"), "none", "OOMKilled"),
    Failure("hung", 79, FailureClass.HUNG, ("train", "end")),
    Failure("mismatch", 80, FailureClass.MISMATCH, ("load",)),
    Failure("superseded", 81, FailureClass.SUPERSEDED, ("start", "load")),
    Failure("untrusted", 82, FailureClass.UNTRUSTED, ("load",)),
    Failure("killed", 137, FailureClass.INFRASTRUCTURE, word="none"),
    Failure("0 without a word", 0, FailureClass.MISMATCH, ("load", "end"), "none"),
    Failure("0 too early", 0, FailureClass.MISMATCH, ("load", "train"), "unattested"),
    Failure("0 in another world", 0, FailureClass.MISMATCH, ("end",), "wrong world"),
    Failure("0 without a result", 0, FailureClass.MISMATCH, ("end",), "no result"),
)
SILENT = Failure("silent", 1, FailureClass.STARTUP_TIMEOUT, ("load",))
NO_IMAGE = Failure("no image", 1, FailureClass.STARTUP_TIMEOUT, ("start",))
COMMON = FAILURES[0]
RECOVERABLE = tuple(f for f in FAILURES if f.failure in (FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED))


@dataclass(frozen=True)
class Fate:
    """The fate of a gang."""

    failure: Failure | None = None
    index: int = 0
    """The index of the pod that fails."""
    when: When = "end"
    symptoms: bool = False
    """Whether its siblings fail with a secondary error just before it."""


def drawn(chance: random.Random, nodes: int) -> Fate:
    """Return a random fate: two of five gangs succeed, and one in five fails in a way that is always retried."""
    luck = chance.random()
    if luck < 0.4:
        return Fate()
    failure = chance.choice(RECOVERABLE) if luck < 0.6 else chance.choice((*FAILURES, SILENT, NO_IMAGE))
    index = 0 if failure.word == "no result" else chance.randrange(nodes)
    # If one pod was only preempted and another failed, the preemption is not the cause.
    symptoms = chance.random() < 0.3 and failure.failure is not FailureClass.PREEMPTED
    return Fate(failure, index, chance.choice(failure.when), symptoms)
