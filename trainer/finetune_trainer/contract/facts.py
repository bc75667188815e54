"""What preparation has found in the data: counts, and sentences that the user should read."""

from __future__ import annotations

from finetune_trainer.contract.message import Answer

MAX_NOTES = 5
MAX_NOTE_CHARACTERS = 300


class Facts(Answer):
    """Facts about the rows of both sides. No text of any row is in it."""

    training_rows: int
    evaluation_rows: int
    effective_length: int | None = None
    """Tokens at which rows are cut: training.sequenceLength, or less where the tokenizer or the model has a lower
    limit. Absent for pictures."""
    cut_rows: int = 0
    """Rows that were longer."""
    empty_rows: int = 0
    """Rows in which nothing is left to learn."""
    leaked_rows: int = 0
    """Evaluation rows that are also training rows, but for case and blanks."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not wrong, but should be known; at most MAX_NOTES of MAX_NOTE_CHARACTERS each."""
