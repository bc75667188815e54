"""Counts the labels of the rows, refuses labels that cannot be classes, and reports labels that look alike.

The memory grows with the number of classes and not with the number of rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from finetune_trainer.errors import InvalidError

FEWEST_ROWS = 20
"""The number of rows from which labels that occur only once are suspicious. Fewer rows may be a mere trial."""
FEWEST_SCORES = 10
"""The same for labels that are fractional numbers, which are rarely classes."""
MOST_FRACTIONS = 20
"""The greatest number of different fractional labels that may be classes, such as star ratings from 0.5 to 5."""
CODE = re.compile(r"0\d")
"""The beginning of numbers that are codes, such as 01.11, and not quantities."""
LONGEST_NAME = 40
"""The greatest length of a label in characters. A longer label is probably user data in the wrong place."""
VARIANTS = 5
"""The greatest number of groups of similar labels that get a note each."""
SHOWN = 4
"""The greatest number of labels that are named in such a group."""


class LabelCounts:
    """The number of rows with each label, and the first of them."""

    def __init__(self) -> None:
        self.rows = 0
        self.numbers: dict[str, int] = {}
        """The number of each label, in the order in which the labels were found."""
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}
        """The id of the first row that has the label."""
        self.equal_to_text = 0
        """The number of rows whose label equals their text."""

    def add(self, row: str, label: str, text: str | None) -> int:
        """Count a row's label and return the label's number.

        `row` is the row's id, and `text` is the text that the model reads, or None for an image.
        """
        self.rows += 1
        self.counts[label] = self.counts.get(label, 0) + 1
        self.first.setdefault(label, row)
        self.equal_to_text += text is not None and label == text.strip()
        return self.numbers.setdefault(label, len(self.numbers))

    @property
    def once(self) -> int:
        """The number of labels that occur once."""
        return sum(count == 1 for count in self.counts.values())

    def joined(self, other: LabelCounts) -> LabelCounts:
        """Return the counts of both sets of rows together."""
        both = LabelCounts()
        both.rows = self.rows + other.rows
        both.equal_to_text = self.equal_to_text + other.equal_to_text
        both.first = {**other.first, **self.first}
        both.numbers = {label: number for number, label in enumerate(both.first)}
        both.counts = {label: self.counts.get(label, 0) + other.counts.get(label, 0) for label in both.first}
        return both


def shown(label: str, count: int) -> str:
    """Return what follows the word `label` in a message: the quoted label, or its length if it must not be quoted."""
    if not _is_name(label, count):
        return f"of {len(label)} characters"
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)


def _is_name(label: str, count: int) -> bool:
    """Return whether a label is the name of a class and may be quoted.

    A class has several rows. A label that is long or occurs only once may be user data, if the label column is the
    wrong one, and messages end up in the status of the FineTuneJob, which must not contain user data.
    """
    return count > 1 and len(label) <= LONGEST_NAME


def refuse_no_classes(labels: LabelCounts, column: str) -> None:
    """Raise InvalidError if the labels are texts, scores or ids instead of classes.

    Labels count as ids if there are at least 20 rows and more than three quarters of them have a label that no other
    row has: what a model learns from such rows cannot be measured on any other row. 77 intents with ten rows each pass,
    a thousand classes with three rows each pass, and so does data with many rare classes. `label_notes` reports the
    labels if more than half of the rows have a label of their own.

    Labels count as scores if all are numbers, some are fractional, and there are more than 20 of them or most occur
    only once. Whole numbers pass, since they may be ratings or codes, and so do codes with a leading 0.
    """
    field = f"dataset.columns.label: column {column!r}"
    different, once = len(labels.counts), labels.once
    if labels.equal_to_text == labels.rows:
        raise InvalidError(f"{field} holds the text of each row again; name the column of the classes")
    if _are_fractions(labels.counts) and (different > MOST_FRACTIONS or 2 * once > labels.rows >= FEWEST_SCORES):
        raise InvalidError(
            f"{field} holds {different} different numbers with fractions, as scores are, and learning scores "
            "(regression) is no task here; make classes of them, such as low and high, or write codes as words"
        )
    if labels.rows >= FEWEST_ROWS and 4 * once > 3 * labels.rows:
        raise InvalidError(
            f"{field} has {different} different labels in {labels.rows} rows, and {once} of them occur only once; "
            "a class needs several rows, so name the column of the classes or make fewer of them"
        )


def _are_fractions(labels: Mapping[str, int]) -> bool:
    if any(CODE.match(label) for label in labels):
        return False
    try:
        return not all(float(label).is_integer() for label in labels)
    except ValueError:
        return False


def label_notes(labels: LabelCounts) -> tuple[str, ...]:
    """Return notes on labels that hardly differ, and on many labels that occur only once.

    All of these labels remain separate classes.
    """
    groups: dict[str, list[str]] = {}
    for label in labels.counts:
        groups.setdefault(_look(label), []).append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    notes = [
        f"dataset.columns.label: {_named(group, labels.counts)} differ only by case, blanks or invisible characters; "
        "are they one class?"
        for group in alike[:VARIANTS]
    ]
    if len(alike) > VARIANTS:
        notes.append(f"dataset.columns.label: {len(alike) - VARIANTS} more groups of labels differ only like that")
    if labels.rows >= FEWEST_ROWS and 2 * labels.once > labels.rows:
        notes.append(
            f"dataset.columns.label: {labels.once} of {labels.rows} rows have a label that no other row has; "
            "is it the column of the classes?"
        )
    return tuple(notes)


def _named(group: list[str], counts: Mapping[str, int]) -> str:
    often = sorted(group, key=lambda label: -counts[label])
    names = [label for label in often if _is_name(label, counts[label])][:SHOWN]
    parts = [f"{shown(label, counts[label])} ({counts[label]} rows)" for label in names]
    if len(group) > len(names):
        parts.append(f"{len(group) - len(names)} more" if names else f"{len(group)} labels of one row each")
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _look(label: str) -> str:
    """Reduce a label to its appearance, without case, white space and characters that have no width."""
    composed = unicodedata.normalize("NFC", label.casefold())
    return "".join(character for character in composed if not _is_invisible(character))


def _is_invisible(character: str) -> bool:
    """Return whether a character is white space, has no width, or selects a variant of the emoji before it."""
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc") or "\ufe00" <= character <= "\ufe0f"
