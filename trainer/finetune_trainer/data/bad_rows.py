"""Collects the rows that are wrong, so that one message names all kinds of mistakes in a file.

Its memory has a bound, however many rows are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NAMED = 20
"""Rows that a message names."""
KINDS = 8
"""Kinds of mistakes that a message describes."""
LONGEST = 1900
"""Characters of a message, which has to fit into the status of a FineTuneJob."""


@dataclass
class _Kind:
    sentence: str
    """What is wrong with the first row."""
    count: int = 0
    others: list[str] = field(default_factory=list)
    """The next rows, at most NAMED of them."""


class BadRows:
    """The rows of one source that are wrong, by kind of mistake.

    Two mistakes are of one kind when their sentences, `field: what is wrong; remedy`, have the same field and remedy.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, row: str, sentence: str) -> None:
        """`row` is its id."""
        self.count += 1
        key = (sentence.partition(":")[0], sentence.rpartition("; ")[2])
        if key not in self._kinds and len(self._kinds) == KINDS:
            return
        kind = self._kinds.setdefault(key, _Kind(sentence))
        kind.count += 1
        if kind.count > 1 and len(kind.others) < NAMED:
            kind.others.append(row)

    def message(self) -> str:
        """The sentence of the first row of each kind, and where the other rows are."""
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
    """How many rows are wrong in the same way, and the names of up to `share` of them if `room` characters suffice."""
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
