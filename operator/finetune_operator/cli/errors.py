"""What the user can mend."""

from __future__ import annotations


class UsageError(Exception):
    """Sentences for the user, each with a remedy; the command ends with exit code 2."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences
