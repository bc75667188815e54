"""Finds where the assistant's turns begin and end among the tokens of a conversation.

A turn begins where the conversation continues after the prompt that the model is given when it has to answer, and it
ends with the token that ends a turn. Both are found by comparing the token ids of the conversation and of parts of it,
not by counting characters, so that the method works for every tokenizer and every chat template.

A turn ends with the first special token after its content. Most templates write one (ChatML's <|im_end|>, Llama 3's
<|eot_id|>, Gemma's <end_of_turn>, Mistral's </s>); what follows it, such as a line break, is not learned, because
generation stops there. If a template writes none, the special token that begins the next message ends the turn, such as
GLM-4's <|user|>, and the last turn of a conversation gets the tokenizer's end-of-sequence token.
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
"""The conversations that show how a template ends turns."""


class Turn(NamedTuple):
    """The positions of a turn's tokens.

    `begin` is the first token, `close` the token that ends the turn, and `end` the position after it. If the template
    ends turns with a text of its own and no special token, `close` equals `end`.
    """

    begin: int
    close: int
    end: int


class Turns:
    """Finds the turns for a tokenizer and its template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        added = tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.special = frozenset(special - {tokenizer.unk_token_id})
        self.closing: frozenset[int] = frozenset()
        """The tokens that end a plain answer."""
        self._blank: dict[int, bool] = {}
        self._ends_by_text = False
        self._try_a_plain_answer()

    def found(self, written: Written, ids: list[int], numbers: Collection[int], row: str) -> dict[int, Turn]:
        """Return the turns of the assistant messages with these numbers, counted from 0.

        An end-of-sequence token is appended to `ids` if the last turn needs it. Raises InvalidError if a turn has no
        end or cannot be found.
        """
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
        """Return the token ids, including special tokens, of a text that the template wrote."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def is_blank(self, token: int) -> bool:
        """Return whether the token is only white space."""
        if token not in self._blank:
            self._blank[token] = token not in self.special and not str(self._tokenizer.decode([token])).strip()
        return self._blank[token]

    # ---- the range of a turn ----------------------------------------------------------------------------------------

    def _region(self, written: Written, ids: list[int], number: int) -> tuple[int, int] | None:
        """Return the range of the turn's tokens, with its end if the template writes one; None if it is not found."""
        begin = self._begin(written, ids, number)
        last = number + 1 == len(written.messages)
        through = written.text if last else self._template.text(written.messages[: number + 1], written.beside)
        if begin is not None and through is not None and written.text.startswith(through):
            end = len(ids) if last else common(self.tokens(through), ids)
            if begin <= end:
                return begin, end
        # The template renders the turn differently if it is the last one, as templates of reasoning models do, or it
        # refuses a conversation that ends there.
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
            # The generation prompt may differ from what precedes an answer in the conversation (an open <think>), but
            # the text of the messages before it must be the same.
            history = self._template.text(before, written.beside)
            if history is None or not written.text.startswith(history[: common(history, prompt)]):
                return None
        return common(self.tokens(prompt), ids)

    def _without_answer(self, written: Written, ids: list[int], number: int) -> tuple[int, int] | None:
        """Return the range of tokens that disappear if the message is empty, or None if there is no difference."""
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
        """Return the position of the token that ends the turn, or None if there is none."""
        tail = end
        while tail > begin and (ids[tail - 1] in self.special or self.is_blank(ids[tail - 1])):
            tail -= 1
        if ends := [place for place in range(tail, end) if ids[place] in self.special]:
            # A turn that calls a tool may have a different end, after other special tokens.
            known = [place for place in ends if ids[place] in self.closing]
            return known[0] if known else ends[-1 if self.closing else 0]
        following = next((place for place in range(end, len(ids)) if not self.is_blank(ids[place])), None)
        return following if following is not None and ids[following] in self.special else None

    def _try_a_plain_answer(self) -> None:
        """Find out how the template ends a plain answer."""
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
    """Return the ids of the tokens that end the assistant's turns in plain conversations and in those with a tool call.

    A model that has learned such conversations stops at each of them. A token that the template also writes within a
    turn is left out, such as gpt-oss' <|end|> after thoughts, because generation would stop before the answer. Raises
    InvalidError if the tokenizer has no chat template.
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
            continue  # The template refuses this kind of conversation.
        ends.update((ids[turn.close], None) for turn in found if turn.close < turn.end)
        within.update(token for turn in found for token in ids[turn.begin : turn.close])
    return tuple(end for end in ends if end in turns.closing or end not in within)
