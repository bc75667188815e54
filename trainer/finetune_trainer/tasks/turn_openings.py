"""Finds the assistant's turns by their opening and closing tokens, in one pass over the tokens, where that is safe.

Comparing parts of a conversation (`turns`) works for every template, but needs a rendering and a tokenisation for each
turn. The search here is used for a kind of conversation that was compared before, with the same result as the search,
if the opening occurs as often as there are assistant messages and no message quotes the special tokens of the opening
and the closing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune_trainer.tasks.chat_template import Written
from finetune_trainer.tasks.turns import Turn

Kind = tuple[frozenset[Any], str, bool]


class TurnOpenings:
    """The opening and closing tokens of a template's turns, learned from conversations that were compared."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: frozenset[int], closing: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._closing = next(iter(closing), None)
        self._opening: tuple[int, ...] = ()
        self._marks: list[str] = []
        """The special tokens with which a turn opens and closes."""
        self._known: set[Kind] = set()

    def found(self, written: Written, ids: Sequence[int], numbers: Sequence[int]) -> dict[int, Turn] | None:
        """Return the turns of the messages with these numbers, or None if they have to be compared."""
        if _kind(written) not in self._known or self._is_quoted(written):
            return None
        return self._search(written, ids, numbers)

    def learn(self, written: Written, ids: Sequence[int], turns: Mapping[int, Turn]) -> None:
        """Record the opening of turns that were compared, and whether the search finds the same turns."""
        if self._closing is None or not turns:
            return
        if not self._opening:
            self._opening = self._opening_of(written, ids, next(iter(turns.values())))
            marks = (*self._opening[:1], self._closing)
            self._marks = [str(self._tokenizer.convert_ids_to_tokens(token)) for token in marks]
        if self._opening and not self._is_quoted(written) and self._search(written, ids, list(turns)) == dict(turns):
            self._known.add(_kind(written))

    def _is_quoted(self, written: Written) -> bool:
        """Return whether a message contains a special token with which the template opens or closes a turn."""
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
        """Return the shortest run of tokens before the turn that begins with a special token and opens only answers.

        A run that occurs as often as there are assistant messages counts as such; without one the result is empty.
        """
        answers = sum(message["role"] == "assistant" for message in written.messages)
        for start in range(turn.begin - 1, -1, -1):
            if ids[start] in self._special:
                opening = tuple(ids[start : turn.begin])
                if sum(1 for _ in _after(opening, ids)) == answers:
                    return opening
        return ()


def _kind(written: Written) -> Kind:
    """Return the properties of a conversation that may change how a template renders it.

    They are the roles, the keys of their messages, the last role, and whether there are several answers.
    """
    shapes = frozenset((message["role"], *sorted(message)) for message in written.messages)
    answers = sum(message["role"] == "assistant" for message in written.messages)
    return shapes, written.messages[-1]["role"], answers > 1


def _after(opening: Sequence[int], ids: Sequence[int]) -> Iterator[int]:
    """Yield the position after each occurrence of the opening."""
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
    """Yield all texts in an object that are not blank."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
