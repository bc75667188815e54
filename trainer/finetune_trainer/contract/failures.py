"""How a rank ends: exit codes, and the classes that a ledger says."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """How a rank, and so its pod, ended. Codes not listed are failures of the infrastructure."""

    DONE = 0
    PREEMPTED = 75
    INVALID = 76
    """The data or the configuration is wrong; trying again cannot help."""
    DIVERGED = 77
    OUT_OF_MEMORY = 78
    HUNG = 79
    MISMATCH = 80
    """A rank found another world size or another configuration than was asked for."""
    SUPERSEDED = 81
    UNTRUSTED = 82
    """No checkpoint could be trusted."""


class FailureClass(StrEnum):
    """Why an attempt ended without success, as the ledger says it."""

    PREEMPTED = "Preempted"
    INVALID = "Invalid"
    DIVERGED = "Diverged"
    OUT_OF_MEMORY = "OutOfMemory"
    HUNG = "Hung"
    MISMATCH = "Mismatch"
    SUPERSEDED = "Superseded"
    UNTRUSTED = "Untrusted"
    INFRASTRUCTURE = "Infrastructure"
    STARTUP_TIMEOUT = "StartupTimeout"
    """All pods had a node, but not all ranks reported in time."""
    UNKNOWN = "Unknown"
    GANG_TIMEOUT = "GangTimeout"
    """Some pods had a node and others found none: all gave way."""
    DEADLINE = "DeadlineExceeded"
    """Of the queue, or of the run."""
    SUSPENDED = "Suspended"
    """By spec.suspend, or by whoever suspended the Job."""
    EDITED = "Edited"
    """The spec was edited before training began: the next attempt is launched as it says."""
    REPLACED = "Replaced"
    """The spec was edited, and the run was not to be finished."""


CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
    ExitCode.INVALID: FailureClass.INVALID,
    ExitCode.DIVERGED: FailureClass.DIVERGED,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.HUNG: FailureClass.HUNG,
    ExitCode.MISMATCH: FailureClass.MISMATCH,
    ExitCode.SUPERSEDED: FailureClass.SUPERSEDED,
    ExitCode.UNTRUSTED: FailureClass.UNTRUSTED,
}


def class_of(exit_code: int) -> FailureClass:
    """The class of a non-zero exit code."""
    return CLASS_OF_EXIT_CODE.get(exit_code, FailureClass.INFRASTRUCTURE)
