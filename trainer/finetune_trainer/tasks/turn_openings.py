"""Finds the assistant's turns by the tokens that open and close them, where that is safe, in one look at the tokens.

Comparing parts of a conversation (`turns`) holds for every template, but takes a rendering and a tokenisation for each
turn. For conversations of a kind that was compared before, and for which this search found the same, it is enough that
the opening occurs as often as the assistant speaks and that no message quotes the special tokens of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_trainer.tasks.chat_template import Written
from finetune_trainer.tasks.turns import Turn

Kind = tuple[frozenset[Any], str, bool]


class TurnOpenings:
    """What it has learned of a template from conversations that were compared."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: frozenset[int], closing: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._closing = next(iter(closing), None)
        self._opening: tuple[int, ...] = ()
        self._marks: list[str] = []
        """The special tokens with which a turn opens and closes."""
        self._known: set[Kind] = set()

    def found(self, written: Written, ids: Sequence[int], numbers: Sequence[int]) -> dict[int, Turn] | None:
        """The turns of the messages with these numbers, or None when they have to be compared."""
        if _kind(written) not in self._known or self._is_quoted(written):
            return None
        return self._search(written, ids, numbers)

    def learn(self, written: Written, ids: Sequence[int], turns: Mapping[int, Turn]) -> None:
        """Take over the opening of turns that were compared, or note that the search finds them."""
        if self._closing is None or not turns:
            return
        if not self._opening:
            self._opening = self._opening_of(written, ids, next(iter(turns.values())))
            marks = (*self._opening[:1], self._closing)
            self._marks = [str(self._tokenizer.convert_ids_to_tokens(token)) for token in marks]
        if self._opening and not self._is_quoted(written) and self._search(written, ids, list(turns)) == dict(turns):
            self._known.add(_kind(written))

    def _is_quoted(self, written: Written) -> bool:
        """Whether a message contains what the template opens or closes a turn with."""
        return any(mark in text for text in _texts(written.messages) for mark in self._marks)

    def _search(self, written: Written, ids: Sequence[int], numbers: Sequence[int]) -> dict[int, Turn] | None:
        answers = [number for number, message in enumerate(written.messages) if message["role"] == "assistant"]
        begins = list(_after(self._opening, ids))
        if len(begins) != len(answers):
            return None
        turns = {}
        for number, begin, limit in zip(answers, begins, [*begins[1:], len(ids)], strict=True):
            try:
                close = ids.index(self._closing, begin, limit)
            except ValueError:
                return None
            turns[number] = Turn(begin, close, close + 1)
        return {number: turns[number] for number in numbers}

    def _opening_of(self, written: Written, ids: Sequence[int], turn: Turn) -> tuple[int, ...]:
        """The shortest run of tokens before the turn that starts with a special token and occurs before answers only,
        by their number."""
        answers = sum(message["role"] == "assistant" for message in written.messages)
        for start in range(turn.begin - 1, -1, -1):
            if ids[start] in self._special:
                opening = tuple(ids[start : turn.begin])
                if sum(1 for _ in _after(opening, ids)) == answers:
                    return opening
        return ()


def _kind(written: Written) -> Kind:
    """What may make a template write a conversation in another way: the roles, their keys, and how it ends."""
    shapes = frozenset((message["role"], *sorted(message)) for message in written.messages)
    answers = sum(message["role"] == "assistant" for message in written.messages)
    return shapes, written.messages[-1]["role"], answers > 1


def _after(opening: Sequence[int], ids: Sequence[int]) -> Iterator[int]:
    """The places after each occurrence."""
    first, length, place = opening[0], len(opening), 0
    wanted = list(opening)
    while True:
        try:
            place = ids.index(first, place)
        except ValueError:
            return
        if ids[place : place + length] == wanted:
            yield place + length
        place += 1


def _texts(value: Any) -> Iterator[str]:
    """All texts in an object, but not those that are empty."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
