"""How a job with a fault ended, and whether that was right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from fault_scoreboard.faults import Fault

TOLERANCE = 1e-4
"""Of the evaluation loss, relative."""


class Equality(StrEnum):
    """A saved model beside that of the side's own undisturbed run."""

    BITS = "bit-equal"
    CLOSE = "within 1e-4"
    DIFFERENT = "no"
    NOT_COMPARED = ""


class Ending(StrEnum):
    """What became of the job in the end."""

    FINISHED = "finished"
    STOPPED = "stopped for a reason"
    """It said that trying again cannot help."""
    GAVE_UP = "failed again and again"
    HUNG = "hung"
    """Nothing moved for so long that a person would have had to come."""


@dataclass(frozen=True)
class Model:
    """A saved model."""

    loss: float
    """Mean cross-entropy over the evaluation rows."""
    digest: str
    """sha256 of its trained weights."""
    finite: bool
    """Whether all of them are."""


@dataclass(frozen=True)
class Outcome:
    """A cell of the scoreboard, as it is in results.json."""

    fault: str
    side: str
    right: bool
    why: str
    ending: Ending
    equality: Equality
    loss: float | None
    """Of the saved model; None when there is none, or when it is not a number."""
    steps_lost: int
    """Optimizer steps that were done more than once."""
    seconds_until_training: float | None
    """From the fault to the first step after it on every rank; None when it never came."""
    seconds: float
    """From the first process to the last."""
    exit_codes: list[list[int]]
    """Of the pods of each attempt; negative for a signal."""
    last_words: list[str]
    """For each attempt, what its first failure said."""


def compare(model: Model | None, undisturbed: Model) -> Equality:
    """By weights first, then by loss."""
    if model is None:
        return Equality.NOT_COMPARED
    if model.digest == undisturbed.digest:
        return Equality.BITS
    is_close = math.isclose(model.loss, undisturbed.loss, rel_tol=TOLERANCE)
    return Equality.CLOSE if model.finite and is_close else Equality.DIFFERENT


def judge(fault: Fault, ending: Ending, model: Model | None, equality: Equality, told: str) -> tuple[bool, str]:
    """Whether it ended rightly, and why or why not. `told` is all that a user can read afterwards."""
    if ending in (Ending.HUNG, Ending.GAVE_UP):
        return False, ending.value
    tells = fault.must_tell is None or re.search(fault.must_tell, told) is not None
    if ending is Ending.STOPPED:
        if not fault.changes_model:
            return False, "stopped although it could have gone on"
        return tells, "stopped and named the cause" if tells else "stopped without naming the cause"
    if model is None:
        return False, "finished without a model"
    if not model.finite:
        return False, "finished with a model that is NaN"
    if not fault.changes_model and equality is Equality.DIFFERENT:
        return False, "finished with another model"
    if not tells:
        return False, "finished, but the cause was not named"
    return True, "finished and named the cause" if fault.must_tell else "finished"
