"""How a job with a fault ended, and whether that was right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from fault_scoreboard.faults import Fault

TOLERANCE = 1e-4
"""The largest relative difference between two evaluation losses that counts as equal."""


class Equality(StrEnum):
    """How a saved model compares with that of the same side's undisturbed run."""

    BITS = "bit-equal"
    CLOSE = "within 1e-4"
    DIFFERENT = "no"
    NOT_COMPARED = ""


class Ending(StrEnum):
    """How the job ended."""

    FINISHED = "finished"
    STOPPED = "stopped for a reason"
    """The side reported that another attempt cannot help."""
    GAVE_UP = "failed again and again"
    HUNG = "hung"
    """There was no progress for so long that a person would have had to intervene."""


@dataclass(frozen=True)
class Model:
    """A saved model."""

    loss: float
    """The mean cross-entropy over the evaluation rows."""
    digest: str
    """The sha256 of the model's trained weights."""
    finite: bool
    """Whether all weights are finite."""


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
    """The loss of the saved model; None if there is no model or the loss is not a number."""
    steps_lost: int
    """The number of optimizer steps that were done more than once."""
    seconds_until_training: float | None
    """Seconds from the fault to the first step after it on every rank; None if that never happened."""
    seconds: float
    """Seconds from the start of the first process to the end of the last one."""
    exit_codes: list[list[int]]
    """The exit codes of the pods of each attempt; negative for a signal."""
    last_words: list[str]
    """The report of the first failure of each attempt."""


def compare(model: Model | None, undisturbed: Model) -> Equality:
    """Compare two models by their weights, and if these differ, by their losses."""
    if model is None:
        return Equality.NOT_COMPARED
    if model.digest == undisturbed.digest:
        return Equality.BITS
    is_close = math.isclose(model.loss, undisturbed.loss, rel_tol=TOLERANCE)
    return Equality.CLOSE if model.finite and is_close else Equality.DIFFERENT


def judge(fault: Fault, ending: Ending, model: Model | None, equality: Equality, told: str) -> tuple[bool, str]:
    """Return whether the job ended rightly, and why or why not. `told` is all that a user can read afterwards."""
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
