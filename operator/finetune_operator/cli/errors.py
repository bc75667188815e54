"""The error for mistakes that the user can correct."""

from __future__ import annotations


class UsageError(Exception):
    """A mistake that the user can correct: one or more messages, each with a remedy. The exit code is 2."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences
