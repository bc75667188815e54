"""Which tokens of a text, or of a prompt and its completion, a language model learns.

Where the completion begins is found by comparing token ids with and without it, not by counting characters: the prompt
alone is what the model is given when it is used. A token that spans the border is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


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
    begin = common(before, ids)
    return Supervised(ids, [place >= begin for place in range(len(ids))])


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """Length of the common beginning."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]
