"""The exit codes of ranks, and the failure classes in the ledger."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """How a rank, and therefore its pod, ended. Codes that are not listed are failures of the infrastructure."""

    DONE = 0
    PREEMPTED = 75
    INVALID = 76
    """The data or the configuration is wrong, so another attempt cannot help."""
    DIVERGED = 77
    OUT_OF_MEMORY = 78
    HUNG = 79
    MISMATCH = 80
    """A rank found another world size or configuration than the operator planned."""
    SUPERSEDED = 81
    UNTRUSTED = 82
    """There were checkpoints, but none could be trusted."""


class FailureClass(StrEnum):
    """Why an attempt ended without success, as recorded in the ledger."""

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
    """All pods were scheduled, but not all ranks reported in time."""
    UNKNOWN = "Unknown"
    GANG_TIMEOUT = "GangTimeout"
    """Some pods were scheduled but others were not, so all of them released their resources."""
    DEADLINE = "DeadlineExceeded"
    """The deadline of the queue or of the run has passed."""
    SUSPENDED = "Suspended"
    """The attempt was suspended by spec.suspend, or by another client that suspended the Job."""
    EDITED = "Edited"
    """The spec was edited before training began; the next attempt uses the edited spec."""
    REPLACED = "Replaced"
    """The spec was edited, and the current run was not to be finished."""


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
    """Return the failure class of a non-zero exit code."""
    return CLASS_OF_EXIT_CODE.get(exit_code, FailureClass.INFRASTRUCTURE)
