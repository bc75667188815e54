"""Finds where the assistant's turns begin and end among the tokens of a conversation.

A turn begins where the conversation goes on after what the model is given when it has to answer, and it ends with the
token that ends a turn. Both are found by comparing token ids of the conversation and of parts of it, not by counting
characters, so that it holds for every tokenizer and every chat template.

The end of a turn is the first special token after its content. Most templates write one (ChatML's <|im_end|>, Llama 3's
<|eot_id|>, Gemma's <end_of_turn>, Mistral's </s>); what follows it, such as a line break, is not learned, because the
model stops there. Where a template writes none, the special token with which the next message begins ends the turn, as
GLM-4's <|user|> does, and the last turn of a conversation gets the tokenizer's end of text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.chat_template import PLAIN, ChatTemplate, Written
from finetune_trainer.tasks.supervision import common

CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"at": "clock"}}}
WITH_A_CALL: list[dict[str, Any]] = [
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "noon", "name": "look", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "It is noon."},
]
WITH_THOUGHTS: list[dict[str, Any]] = [PLAIN[0], {**PLAIN[1], "reasoning_content": "I am greeted."}]
"""Conversations by which is tried how a template ends turns."""


class Turn(NamedTuple):
    """Places of the turn's tokens: `begin` is the first one, `close` the one that ends the turn, and `end` is after
    both. Where the template ends turns by a text of its own and no special token, `close` is `end`."""

    begin: int
    close: int
    end: int


class Turns:
    """Finds turns, given a tokenizer and its template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        added = tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.special = frozenset(special - {tokenizer.unk_token_id})
        self.closing: frozenset[int] = frozenset()
        """Tokens that end a plain answer."""
        self._blank: dict[int, bool] = {}
        self._ends_by_text = False
        self._try_a_plain_answer()

    def found(self, written: Written, ids: list[int], numbers: Collection[int], row: str) -> dict[int, Turn]:
        """The turns of the messages with these numbers (from 0), all of them the assistant's. Appends the end of text
        to `ids` where the last turn needs it. Raises InvalidError when a turn has no end or cannot be found."""
        turns = {}
        for number in numbers:
            region = self._region(written, ids, number)
            if region is None:
                raise InvalidError(
                    f"dataset.columns.messages: message {number + 1} of {row} is not found in what the model's chat "
                    "template writes; change or remove the row"
                )
            turns[number] = self._closed(ids, *region, number, number + 1 == len(written.messages), row)
        return turns

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text that the template wrote, special tokens included."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def is_blank(self, token: int) -> bool:
        """Whether the token is white space and nothing else."""
        if token not in self._blank:
            self._blank[token] = token not in self.special and not str(self._tokenizer.decode([token])).strip()
        return self._blank[token]

    # ---- where a turn begins, and where what the template writes of it ends -----------------------------------------

    def _region(self, written: Written, ids: list[int], number: int) -> tuple[int, int] | None:
        """From the turn's first token to where its text, with its end if the template writes one, is over."""
        begin = self._begin(written, ids, number)
        last = number + 1 == len(written.messages)
        through = written.text if last else self._template.text(written.messages[: number + 1], written.beside)
        if begin is not None and through is not None and written.text.startswith(through):
            end = len(ids) if last else common(self.tokens(through), ids)
            if begin <= end:
                return begin, end
        # The template writes the turn otherwise when it is the last one, as those of models that think do, or a
        # conversation that ends there.
        emptied = self._without_answer(written, ids, number)
        if emptied is None:
            return None
        return emptied if begin is None else (begin, max(begin, emptied[1]))

    def _begin(self, written: Written, ids: list[int], number: int) -> int | None:
        before = written.messages[:number]
        prompt = self._template.text(before, written.beside, answering=True)
        if prompt is None:
            return None
        if not written.text.startswith(prompt):
            # What the template adds for the answer may differ from what it writes before one (an open <think>), but
            # the messages before it must be the same.
            history = self._template.text(before, written.beside)
            if history is None or not written.text.startswith(history[: common(history, prompt)]):
                return None
        return common(self.tokens(prompt), ids)

    def _without_answer(self, written: Written, ids: list[int], number: int) -> tuple[int, int] | None:
        """The tokens that are gone when the message says nothing."""
        emptied = {"role": written.messages[number]["role"], "content": ""}
        messages = [*written.messages[:number], emptied, *written.messages[number + 1 :]]
        text = self._template.text(messages, written.beside)
        if text is None or text == written.text:
            return None
        without = self.tokens(text)
        begin = common(without, ids)
        after = min(common(without[::-1], ids[::-1]), len(without) - begin)
        return begin, len(ids) - after

    # ---- how a turn ends --------------------------------------------------------------------------------------------

    def _closed(self, ids: list[int], begin: int, end: int, number: int, last: bool, row: str) -> Turn:
        close = self._close(ids, begin, end)
        if close is not None:
            return Turn(begin, close, close + 1)
        end_of_text = self._tokenizer.eos_token_id
        if last and end_of_text is not None:
            ids.append(end_of_text)
            return Turn(begin, len(ids) - 1, len(ids))
        if self._ends_by_text:
            return Turn(begin, end, end)
        raise InvalidError(
            f"dataset.columns.messages: the model's chat template writes nothing that ends message {number + 1} of "
            f"{row}, so the model would not learn to stop there; use a model whose template ends every turn, or give "
            "that message weight 0"
        )

    def _close(self, ids: Sequence[int], begin: int, end: int) -> int | None:
        """The place of the token that ends the turn."""
        tail = end
        while tail > begin and (ids[tail - 1] in self.special or self.is_blank(ids[tail - 1])):
            tail -= 1
        if ends := [place for place in range(tail, end) if ids[place] in self.special]:
            # A turn that calls a tool may have an end of its own, after marks that are special tokens as well.
            known = [place for place in ends if ids[place] in self.closing]
            return known[0] if known else ends[-1 if self.closing else 0]
        following = next((place for place in range(end, len(ids)) if not self.is_blank(ids[place])), None)
        return following if following is not None and ids[following] in self.special else None

    def _try_a_plain_answer(self) -> None:
        """See how the template ends one."""
        answer = PLAIN[-1]["content"]
        try:
            text = self._template.written(PLAIN, {}, "a trial").text
        except InvalidError:
            return
        if answer not in text:
            return
        ids = self.tokens(text)
        close = self._close(ids, common(self.tokens(text[: text.index(answer)]), ids), len(ids))
        if close is not None:
            self.closing = frozenset({ids[close]})
        else:
            self._ends_by_text = bool(text.rpartition(answer)[2].strip())


def end_of_turn_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of the tokens that end the assistant's turns in plain conversations and in those with a tool call: at each of
    them a model that has learned such conversations stops. Raises InvalidError without a chat template.

    A token that the template also writes within a turn is left out, as gpt-oss' <|end|> after thoughts: generation
    would stop before the answer.
    """
    template = ChatTemplate(tokenizer)
    turns = Turns(tokenizer, template)
    ends: dict[int, None] = {}
    within: set[int] = set()
    for messages in (PLAIN, PLAIN * 2, WITH_A_CALL, WITH_THOUGHTS):
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        try:
            written = template.written(messages, {}, "a trial")
            ids = turns.tokens(written.text)
            found = turns.found(written, ids, answers, "a trial").values()
        except InvalidError:
            continue  # the template takes no such conversation
        ends.update((ids[turn.close], None) for turn in found if turn.close < turn.end)
        within.update(token for turn in found for token in ids[turn.begin : turn.close])
    return tuple(end for end in ends if end in turns.closing or end not in within)
