"""Selects the tokens of a chat that a language model learns: the assistant's messages and the end of each turn.

A template may mark the assistant's output by `{% generation %}`. Such marks can only reduce what is learned of a turn:
the template's author may exclude thoughts, for example. Marked text outside a turn is not learned, and the end of a
turn is learned although it is not marked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.messages import ANSWER_KEYS
from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.chat_template import ChatTemplate, Written
from finetune_trainer.tasks.supervision import Supervised, common
from finetune_trainer.tasks.turn_openings import TurnOpenings
from finetune_trainer.tasks.turns import Turn, Turns

Conversation = Mapping[str, Any]
"""The keys `messages` and, if present, `tools` and `documents`, as validated by `data.messages`."""


class Chat:
    """Encodes the conversations of a data set and records which of their keys the template never uses."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._turns = Turns(tokenizer, self._template)
        self._openings = TurnOpenings(tokenizer, self._turns.special, self._turns.closing)
        self._used: set[str] = set()
        self._rows_with: Counter[str] = Counter()

    def supervised(self, conversation: Conversation, row: str) -> Supervised:
        """Return the tokens of a conversation and which of them are learned.

        `row` is the id that an InvalidError names.
        """
        return next(self.supervised_rows([conversation], [row]))

    def supervised_rows(self, conversations: Sequence[Conversation], rows: Sequence[str]) -> Iterator[Supervised]:
        """Yield the same for many conversations, which are tokenised together."""
        written = [self._written(conversation, row) for conversation, row in zip(conversations, rows, strict=True)]
        encoded = self._tokenizer([each.text for each in written], add_special_tokens=False)
        encodings = encoded.encodings or [None] * len(rows)
        for conversation, row, each, ids, encoding in zip(
            conversations, rows, written, encoded["input_ids"], encodings, strict=True
        ):
            yield self._supervised(conversation, row, each, ids, encoding)

    def _written(self, conversation: Conversation, row: str) -> Written:
        messages = [{key: part for key, part in m.items() if key != "weight"} for m in conversation["messages"]]
        beside = {key: conversation[key] for key in ("tools", "documents") if key in conversation}
        written = self._template.written(messages, beside, row)
        self._note_keys(written)
        return written

    def _supervised(
        self, conversation: Conversation, row: str, written: Written, ids: list[int], encoding: Encoding | None
    ) -> Supervised:
        answers = [
            number
            for number, message in enumerate(conversation["messages"])
            if message["role"] == "assistant" and message.get("weight") != 0
        ]
        for number in answers:
            self._refuse_unwritten(written.messages[number], row)
        turns = self._openings.found(written, ids, answers)
        if turns is None:
            turns = self._turns.found(written, ids, answers, row)
            self._openings.learn(written, ids, turns)
        learned = [False] * len(ids)
        for number, turn in turns.items():
            self._refuse_silence(written.messages[number], turn, ids, row)
            learned[turn.begin : turn.end] = [True] * (turn.end - turn.begin)
        if written.marked is not None:
            learned = _narrowed(list(turns.values()), self._marked_tokens(written, ids, encoding), len(ids))
            if not any(learned):
                raise InvalidError(
                    "dataset.columns.messages: the {% generation %} of the model's chat template marks nothing that "
                    f"the assistant says in {row}; mark its content in the template, or use another model"
                )
        return Supervised(ids, learned)

    @property
    def notes(self) -> list[str]:
        """The notes for the user: one sentence for each key that the template has not used so far."""
        return [
            f"dataset.columns.messages: the chat template of the model does not use {key!r}, which {count} "
            f"row{' has' if count == 1 else 's have'}"
            for key, count in sorted(self._rows_with.items())
            if key not in self._used
        ]

    def _note_keys(self, written: Written) -> None:
        """Count the keys that the template does not use: it writes the same text without them."""
        keys = {*written.beside, *(key for message in written.messages for key in message)}
        if not (new := keys - self._used - {"role", "content"}):
            return
        self._rows_with.update(new)
        if self._text_without(written, new) != written.text:
            self._used |= {key for key in new if self._text_without(written, {key}) != written.text}

    def _text_without(self, written: Written, keys: set[str]) -> str | None:
        messages = [{key: part for key, part in m.items() if key not in keys} for m in written.messages]
        beside = {key: part for key, part in written.beside.items() if key not in keys}
        return self._template.text(messages, beside)

    def _refuse_unwritten(self, message: Mapping[str, Any], row: str) -> None:
        """Raise InvalidError if all output of a message is in keys that the template never writes.

        The model would learn an empty answer.
        """
        keys = [key for key in ANSWER_KEYS if message.get(key)]
        if keys and not _content(message) and not self._used.intersection(keys):
            raise _unwritten(keys[0], row)

    def _refuse_silence(self, message: Mapping[str, Any], turn: Turn, ids: Sequence[int], row: str) -> None:
        """Raise InvalidError if the template writes no output for this message, although it may do so for others."""
        keys = ["content"] if _content(message) else [key for key in ANSWER_KEYS if message.get(key)]
        if keys and all(self._turns.is_blank(token) for token in ids[turn.begin : turn.close]):
            raise _unwritten(keys[0], row)

    # ---- marks of the template --------------------------------------------------------------------------------------

    def _marked_tokens(self, written: Written, ids: Sequence[int], encoding: Encoding | None) -> list[range]:
        """Return the positions of the tokens that have a character in a marked range.

        The mask of transformers is not used: it looks up the token of a range's first character. If the tokenizer drops
        that character, as many drop white space, the mask omits this range and all following ones.
        """
        places = []
        spans = encoding.offsets if encoding is not None else []
        for begin, end in written.marked or ():
            if encoding is None:  # The tokenizer does not report character offsets.
                before, through = (self._turns.tokens(written.text[:place]) for place in (begin, end))
                after = common(through, ids)
                places.append(range(common(before, ids), after if after == len(through) else after + 1))
            else:
                first = bisect_right(spans, begin, key=lambda span: span[1])
                places.append(range(first, bisect_left(spans, end, key=lambda span: span[0])))
        return places


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content", "")
    return (content if isinstance(content, str) else "".join(part["text"] for part in content)).strip()


def _unwritten(key: str, row: str) -> InvalidError:
    return InvalidError(
        f"dataset.columns.messages: {row}: the model's chat template does not write {key}; "
        "use a model whose template does, or remove the row"
    )


def _narrowed(turns: Sequence[Turn], marked: Sequence[range], length: int) -> list[bool]:
    """Return which tokens are learned: the marked tokens of the turns, and the end of each turn with a marked token."""
    learned = [False] * length
    for turn in turns:
        for places in marked:
            begin, end = max(turn.begin, places.start), min(turn.close, places.stop)
            if begin < end:
                learned[begin:end] = [True] * (end - begin)
                learned[turn.close : turn.end] = [True] * (turn.end - turn.close)
    return learned
