"""Selects the tokens that a language model learns of a text, or of a prompt and its completion.

The beginning of the completion is found by comparing the token ids with and without it, not by counting characters,
because the model is given the prompt alone when it is used. A token that spans the border is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class Supervised(NamedTuple):
    """The tokens of a row and, for each, whether it is learned."""

    ids: list[int]
    learned: list[bool]


def text(tokenizer: PreTrainedTokenizerBase, words: str) -> Supervised:
    """Return all tokens of a text with an end-of-sequence token, all of them learned."""
    ids = _ended(tokenizer, tokenizer(words)["input_ids"])
    return Supervised(ids, [True] * len(ids))


def completion(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Supervised:
    """Return the tokens of a prompt and its answer; those of the answer and the end-of-sequence token are learned."""
    before = tokenizer(prompt)["input_ids"]
    ids = _ended(tokenizer, tokenizer(prompt + answer)["input_ids"])
    begin = common(before, ids)
    return Supervised(ids, [place >= begin for place in range(len(ids))])


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the length of the common beginning of two sequences."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]
