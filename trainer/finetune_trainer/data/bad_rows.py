"""Collects the wrong rows of a source, so that one message describes all kinds of mistakes in it.

The memory is bounded, however many rows are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NAMED = 20
"""The greatest number of rows that a message names."""
KINDS = 8
"""The greatest number of kinds of mistakes that a message describes."""
LONGEST = 1900
"""The greatest length of a message in characters: it must fit into the status of a FineTuneJob."""


@dataclass
class _Kind:
    sentence: str
    """The description of the first row's mistake."""
    count: int = 0
    others: list[str] = field(default_factory=list)
    """The ids of the following rows, at most NAMED of them."""


class BadRows:
    """The wrong rows of one source, grouped by kind of mistake.

    Two mistakes are of the same kind if their sentences, `field: what is wrong; remedy`, have the same field and
    remedy.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, row: str, sentence: str) -> None:
        """Add a wrong row, given its id and the description of its mistake."""
        self.count += 1
        key = (sentence.partition(":")[0], sentence.rpartition("; ")[2])
        if key not in self._kinds and len(self._kinds) == KINDS:
            return
        kind = self._kinds.setdefault(key, _Kind(sentence))
        kind.count += 1
        if kind.count > 1 and len(kind.others) < NAMED:
            kind.others.append(row)

    def message(self) -> str:
        """Return the sentence of the first row of each kind, followed by the ids of further rows of that kind."""
        kinds = list(self._kinds.values())
        share = NAMED // len(kinds) - 1
        total = f"; {self.count} rows are wrong in all" if len(kinds) > 1 else ""
        text = ""
        for kind in kinds:
            part = f"; also {kind.sentence}" if text else kind.sentence
            if text and len(text) + len(part) + len(total) > LONGEST:
                break
            text += part
            text += _others(kind, share, LONGEST - len(text) - len(total))
        return text + total


def _others(kind: _Kind, share: int, room: int) -> str:
    """Return how many more rows have the same mistake.

    Up to `share` of them are named, if the text then still fits into `room` characters.
    """
    count = kind.count - 1
    if not count:
        return ""
    text = f"; {count} more {'rows are' if count > 1 else 'row is'} wrong in the same way"
    for shown in range(min(share, len(kind.others)), 0, -1):
        more = f" and {count - shown} others" if count > shown else ""
        named = f"{text}: {', '.join(kind.others[:shown])}{more}"
        if len(named) <= room:
            return named
    return text
