"""What preparation found in the data: counts, and notes for the user."""

from __future__ import annotations

from finetune_trainer.contract.message import Answer

MAX_NOTES = 5
MAX_NOTE_CHARACTERS = 300


class Facts(Answer):
    """Facts about the training and evaluation rows. They contain no text of any row."""

    training_rows: int
    evaluation_rows: int
    effective_length: int | None = None
    """The length in tokens to which rows are cut: training.sequenceLength, or less if the tokenizer or the model has a
    lower limit. Absent for images."""
    cut_rows: int = 0
    """The number of rows that were longer."""
    empty_rows: int = 0
    """The number of rows that contain nothing to learn."""
    leaked_rows: int = 0
    """The number of evaluation rows that are also training rows, ignoring case and whitespace."""
    notes: tuple[str, ...] = ()
    """Sentences on findings that are no errors but that the user should know; at most MAX_NOTES, each with at most
    MAX_NOTE_CHARACTERS."""
