"""Which tokens of a row a language model learns: all of a text, a completion, the assistant's words of a chat.

Where a learned part begins is found by comparing token ids with and without it, not by counting characters: that is
what the model is given when it is used, and it holds for every tokenizer and every chat template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from finetune_trainer.errors import InvalidError

GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template marks what the assistant says."""

Messages = Sequence[dict[str, str]]


class Supervised(NamedTuple):
    """Tokens of a row, and for each whether it is learned."""

    ids: list[int]
    learned: list[bool]


def text(tokenizer: PreTrainedTokenizerBase, words: str) -> Supervised:
    """All tokens, and the end of the text."""
    ids = _ended(tokenizer, tokenizer(words)["input_ids"])
    return Supervised(ids, [True] * len(ids))


def completion(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Supervised:
    """The answer and its end, given the prompt."""
    before = tokenizer(prompt)["input_ids"]
    ids = _ended(tokenizer, tokenizer(prompt + answer)["input_ids"])
    begin = _common(before, ids)
    return Supervised(ids, [place >= begin for place in range(len(ids))])


def chat(tokenizer: PreTrainedTokenizerBase, messages: Messages, row: str) -> Supervised:
    """What the assistant says, with the end of each turn. `row` names the messages in an InvalidError."""
    template = tokenizer.chat_template
    if not template:
        raise InvalidError(
            "dataset.columns.messages: the model's tokenizer has no chat template; use a model that has one, "
            "or the columns prompt and completion"
        )
    try:
        if isinstance(template, str) and GENERATION_BLOCK.search(template):
            return _marked(tokenizer, messages)
        return _compared(tokenizer, messages)
    except TemplateError as error:
        # Some templates put a role or a text of the row into what they say; their own words are in the template.
        complaint = str(error) if str(error) in str(template) else "it does not accept these messages"
        raise InvalidError(
            f"dataset.columns.messages: the chat template refuses {row} ({complaint}); change or remove the row"
        ) from None


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Supervised:
    rendered: Any = tokenizer.apply_chat_template(list(messages), return_dict=True, return_assistant_tokens_mask=True)
    return Supervised(rendered["input_ids"], [bool(learned) for learned in rendered["assistant_masks"]])


def _compared(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Supervised:
    ids = _rendered(tokenizer, messages)
    learned = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = _common(_rendered(tokenizer, messages[:turn], answering=True), ids)
        end = _common(_rendered(tokenizer, messages[: turn + 1]), ids)
        if end <= begin:
            begin, end = _answer_before_others(tokenizer, messages, turn, ids)
        learned[begin:end] = [True] * (end - begin)
    return Supervised(ids, learned)


def _answer_before_others(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, turn: int, ids: Sequence[int]
) -> tuple[int, int]:
    """Begin and end of an answer that the template writes otherwise when it is the last one, as those of models that
    think do: the tokens that are gone when its content is, and the one after them, which ends the turn."""
    emptied = [*messages[:turn], {**messages[turn], "content": ""}, *messages[turn + 1 :]]
    without = _rendered(tokenizer, emptied)
    begin = _common(without, ids)
    after = min(_common(without[::-1], ids[::-1]), len(without) - begin)
    return begin, min(len(ids) - after + 1, len(ids))


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, answering: bool = False) -> list[int]:
    if not messages:
        return []
    rendered: Any = tokenizer.apply_chat_template(list(messages), add_generation_prompt=answering, return_dict=True)
    ids: list[int] = rendered["input_ids"]
    return ids


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
