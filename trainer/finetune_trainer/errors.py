"""The errors with which a rank ends on purpose; `rank.py` turns each into its exit code."""

from __future__ import annotations

from finetune_trainer.contract import ExitCode


class TrainingError(Exception):
    """The base class. The message is one sentence for the user that states the field, the value and the remedy."""

    exit_code: ExitCode


class InvalidError(TrainingError):
    """The data, the model or the configuration is wrong, so another attempt cannot help."""

    exit_code = ExitCode.INVALID


class DivergedError(TrainingError):
    """Too many consecutive steps had a loss or a gradient that is not finite.

    `rows` has the ids of some rows of the last step.
    """

    exit_code = ExitCode.DIVERGED

    def __init__(self, message: str, rows: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class MismatchError(TrainingError):
    """The world or the configuration is not the one that the operator planned."""

    exit_code = ExitCode.MISMATCH


class StoppedError(TrainingError):
    """All ranks agreed to stop, because at least one was asked to."""

    exit_code = ExitCode.PREEMPTED


class SupersededError(TrainingError):
    """A newer attempt of the run has begun."""

    exit_code = ExitCode.SUPERSEDED


class NoCheckpointError(TrainingError):
    """There are checkpoints, but none can be trusted."""

    exit_code = ExitCode.UNTRUSTED


class UntrustedError(Exception):
    """A checkpoint is not what was written. The message is one sentence that names the path."""
