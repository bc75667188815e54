"""The part of a long text that a tokenizer has to read, when only its first tokens are kept.

A fixed number of characters per token would be wrong for some tokenizer, so a piece of the text is tokenised and the
tokens are counted that the rest of the text cannot change. A tokenizer of the tokenizers library splits a text into
pre-tokens first and then encodes each of them for itself. Whatever follows the piece can therefore change only

- the last pre-token of the piece, which may go on;
- the characters just before the end, which may belong to an added token, or to a character that is composed of several;
- digits, blanks and combining marks at the end, because pre-tokenizers and normalizers look over whole runs of them.

A tokenizer that takes the whole text as one pre-token (as Llama 2's does) gives no such tokens, and neither does a
slow one: for them the text stays whole.
"""

from __future__ import annotations

import unicodedata

from transformers import PreTrainedTokenizerBase

CHARACTERS_PER_TOKEN = 16
"""How long the first piece is; most tokenizers need four or five characters of prose for a token."""
MARGIN = 64
"""Characters at the end of a piece whose tokens are not counted."""


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """A beginning of the text that has the same first `tokens` tokens as the whole text, special ones not counted."""
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
    """How many of the first tokens of a piece stay as they are, whatever follows the piece."""
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
