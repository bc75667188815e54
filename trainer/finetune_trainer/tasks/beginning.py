"""Finds the part of a long text that must be tokenised if only its first tokens are kept.

A fixed number of characters for each token would be wrong for some tokenizers. Instead, a piece of the text is
tokenised, and only those of its tokens count that the rest of the text cannot change. A tokenizer of the tokenizers
library first splits a text into pre-tokens and then encodes each of them independently. The text after the piece can
therefore change only

- the last pre-token of the piece, which may continue;
- the characters just before the end, which may be part of an added token or of a composed character;
- digits, white space and combining marks at the end, because pre-tokenizers and normalizers process whole runs of them.

A tokenizer that treats the whole text as one pre-token (such as Llama 2's) has no unchangeable tokens, and a slow
tokenizer does not report them: both get the whole text.
"""

from __future__ import annotations

import unicodedata

from transformers import PreTrainedTokenizerBase

CHARACTERS_PER_TOKEN = 16
"""The length of the first piece for each token; most tokenizers need four or five characters of prose for a token."""
MARGIN = 64
"""The number of characters at the end of a piece whose tokens are not counted."""


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """Return a beginning of the text that has the same first `tokens` tokens as the text, without special tokens."""
    characters = CHARACTERS_PER_TOKEN * tokens + MARGIN
    if len(text) <= characters or not tokenizer.is_fast:
        return text
    margin = max([MARGIN, *(len(token.content) + 1 for token in tokenizer.added_tokens_decoder.values())])
    while characters < len(text):
        piece = text[:characters]
        if _certain_tokens(tokenizer, piece, margin) >= tokens:
            return piece
        characters *= 2
    return text


def _certain_tokens(tokenizer: PreTrainedTokenizerBase, piece: str, margin: int) -> int:
    """Return how many of the first tokens of a piece do not depend on the text after the piece."""
    encoding = tokenizer(piece, add_special_tokens=False).encodings[0]
    end = len(piece)
    while end and _belongs_to_a_run(piece[end - 1]):
        end -= 1
    last_word = max((word for word in encoding.word_ids if word is not None), default=0)
    places = zip(encoding.word_ids, encoding.offsets, strict=True)
    uncertain = (
        place
        for place, (word, (_, stop)) in enumerate(places)
        if word is None or word == last_word or stop > end - margin
    )
    return next(uncertain, len(encoding.ids))


def _belongs_to_a_run(character: str) -> bool:
    return character.isspace() or character.isnumeric() or unicodedata.category(character).startswith("M")
