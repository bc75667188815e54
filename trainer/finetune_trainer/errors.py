"""The ways in which a rank ends on purpose; `rank.py` turns each into its exit code."""

from __future__ import annotations

from finetune_trainer.contract import ExitCode


class TrainingError(Exception):
    """Base. The text is one sentence for people: field, value, remedy."""

    exit_code: ExitCode


class InvalidError(TrainingError):
    """The data, the model or the configuration is wrong; trying again cannot help."""

    exit_code = ExitCode.INVALID


class DivergedError(TrainingError):
    """Too many steps in a row had a loss or a gradient that is not finite."""

    exit_code = ExitCode.DIVERGED


class MismatchError(TrainingError):
    """The world or the configuration is not the one that was asked for."""

    exit_code = ExitCode.MISMATCH


class StoppedError(TrainingError):
    """All ranks agreed to stop, because one was asked to."""

    exit_code = ExitCode.PREEMPTED
