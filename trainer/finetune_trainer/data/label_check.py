"""Counts the labels of the rows, refuses those that cannot be classes, and notes those that look like the same class.

Memory grows with the number of classes and not with the number of rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from finetune_trainer.errors import InvalidError

FEWEST_ROWS = 20
"""Rows from which on labels that occur once are suspicious. With fewer, somebody may be trying something out."""
FEWEST_SCORES = 10
"""The same for numbers with fractions, which are hardly ever classes."""
MOST_FRACTIONS = 20
"""Different labels with fractions that may be classes, as stars from 0.5 to 5 are."""
CODE = re.compile(r"0\d")
"""How numbers begin that are codes, as 01.11 is, and no amounts."""
LONGEST_NAME = 40
"""Characters of a label. What is longer is likely somebody's text in the wrong place."""
VARIANTS = 5
"""Groups of labels that look the same, each of which gets a note."""
SHOWN = 4
"""Labels of such a group that are named."""


class LabelCounts:
    """How often each label occurs in some rows, and where it occurs first."""

    def __init__(self) -> None:
        self.rows = 0
        self.numbers: dict[str, int] = {}
        """Label -> how many labels were found before it."""
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}
        """Label -> id of the first row that has it."""
        self.equal_to_text = 0
        """Rows whose label is their text."""

    def add(self, row: str, label: str, text: str | None) -> int:
        """Returns the label's number. `row` is the row's id; `text` is what the model reads, None for a picture."""
        self.rows += 1
        self.counts[label] = self.counts.get(label, 0) + 1
        self.first.setdefault(label, row)
        self.equal_to_text += text is not None and label == text.strip()
        return self.numbers.setdefault(label, len(self.numbers))

    @property
    def once(self) -> int:
        """Labels that occur once."""
        return sum(count == 1 for count in self.counts.values())

    def joined(self, other: LabelCounts) -> LabelCounts:
        """The counts of the rows of both."""
        both = LabelCounts()
        both.rows = self.rows + other.rows
        both.equal_to_text = self.equal_to_text + other.equal_to_text
        both.first = {**other.first, **self.first}
        both.numbers = {label: number for number, label in enumerate(both.first)}
        both.counts = {label: self.counts.get(label, 0) + other.counts.get(label, 0) for label in both.first}
        return both


def shown(label: str, count: int) -> str:
    """A label as it follows the word `label` in a sentence: its name if it is the name of a class, or its length."""
    if not _is_name(label, count):
        return f"of {len(label)} characters"
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)


def _is_name(label: str, count: int) -> bool:
    """Whether a label is the name of a class and so may be quoted.

    A class has several rows. What occurs once, or is long, may be what somebody wrote, if the label column is the wrong
    one, and a sentence ends up in the status of the FineTuneJob, which is no place for data.
    """
    return count > 1 and len(label) <= LONGEST_NAME


def refuse_no_classes(labels: LabelCounts, column: str) -> None:
    """Raises InvalidError when the labels are the texts, scores, or ids.

    Labels are taken for ids when more than three quarters of at least 20 rows have one that no other row has: what a
    model learns from such rows can be measured on no other. So 77 intents of ten rows each pass, a thousand classes of
    three rows each, and data with a long tail of rare classes. From one half on, `label_notes` says so.

    Labels are taken for scores when all are numbers, some have fractions, and they are more than 20 or most occur once.
    Whole numbers pass (they may be stars or codes), and so do codes with a leading 0.
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
    """Sentences on many labels of one row, and on labels that differ only in what people hardly see. All stay classes
    of their own."""
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
    """What labels that look alike have in common: no case, no blanks, no characters without a width."""
    composed = unicodedata.normalize("NFC", label.casefold())
    return "".join(character for character in composed if not _is_invisible(character))


def _is_invisible(character: str) -> bool:
    """Whether it is a blank, has no width, or only chooses between two forms of the emoji before it."""
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc") or "\ufe00" <= character <= "\ufe0f"
