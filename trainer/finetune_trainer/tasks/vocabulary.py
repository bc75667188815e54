"""The rows that a model's embeddings have for the tokens of its tokenizer.

Users add tokens to a tokenizer, and no training has touched the rows of such tokens: either the model has no rows for
them yet, or they fall on rows with which the model's authors padded the vocabulary. These rows begin as the mean of the
rows of all other tokens, so that a new token is at first an average one and not noise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.errors import InvalidError

ROWS_AT_ONCE = 8192
"""Rows that are converted to fp32 at the same time: a whole vocabulary would take gigabytes."""
ZERO_LENGTH = 1e-16
"""Rows that were never trained are often zero, or have decayed to almost zero."""
SHORTEST_TRAINED = 0.01
"""The quantile of the lengths of trained rows below which a length tells untrained rows from trained ones."""


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Give every token of the tokenizer a row in the model's embeddings; embeddings that are larger stay so.

    Returns the ids of the tokens that no training has touched and that a text may hold, in ascending order; a token
    that only fills up batches is not among them. Raises InvalidError for a model whose embeddings cannot be enlarged.
    """
    table: Any = getattr(model.get_input_embeddings(), "weight", None)
    if table is None or table.dim() != 2:
        return ()  # characters are hashed, for example
    used = set(tokenizer.get_vocab().values())
    present = table.shape[0]
    needed = max(len(tokenizer), max(used) + 1)
    new = {token for token in used if token >= present} | _untrained(table, tokenizer, used)
    if needed > present:
        _enlarge(model, needed)
    if new:
        _begin_as_mean(model, [*range(present, needed), *(token for token in new if token < present)], used - new)
    return tuple(sorted(new - _fillers(tokenizer)))


def _enlarge(model: PreTrainedModel, rows: int) -> None:
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
    except (NotImplementedError, AttributeError, TypeError):
        raise InvalidError(
            f"model.uri: the tokenizer needs {rows} rows in the embeddings, and those of a model of type "
            f"{model.config.model_type} cannot be enlarged; remove the tokens that were added to the tokenizer"
        ) from None


def _fillers(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token for padding, unless texts end with it."""
    return {tokenizer.pad_token_id} - {tokenizer.eos_token_id, None}


def _untrained(table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, used: Collection[int]) -> set[int]:
    """Tokens that were added to the tokenizer's own vocabulary and whose rows were never trained.

    Their rows are zero, or as short as the rows that no token has, where those are shorter than trained ones. A token
    on a padding row that looks as trained rows do is not found."""
    present = table.shape[0]
    added = {
        token
        for token in tokenizer.added_tokens_decoder
        if tokenizer.vocab_size <= token < present and token not in _fillers(tokenizer)
    }
    if not added:
        return set()
    lengths = torch.cat([rows.norm(dim=1) for rows in _in_fp32(table)])
    has_token = torch.zeros(present, dtype=torch.bool)
    has_token[[token for token in used if token < present]] = True
    trained = lengths[[token for token in used if token < present and token not in added]]
    longest_unused = float(lengths[~has_token].max()) if not has_token.all() else 0.0
    if not len(trained) or longest_unused >= float(trained.quantile(SHORTEST_TRAINED)):
        longest_unused = 0.0
    limit = max(longest_unused, ZERO_LENGTH)
    return {token for token in added if float(lengths[token]) <= limit}


@torch.no_grad()
def _begin_as_mean(model: PreTrainedModel, rows: list[int], known: Collection[int]) -> None:
    """Write the mean over the rows `known` into `rows`, for all that has a row for each token."""
    for tensor in _tables(model):
        is_known = torch.zeros(tensor.shape[0], dtype=torch.bool)
        is_known[list(known)] = True
        parts = zip(_in_fp32(tensor), is_known.split(ROWS_AT_ONCE), strict=True)
        total = torch.stack([part[mask].sum(0) for part, mask in parts]).sum(0)
        tensor[rows] = (total / len(known)).to(tensor.dtype)


def _in_fp32(table: torch.Tensor) -> Iterator[torch.Tensor]:
    return (rows.float() for rows in table.detach().split(ROWS_AT_ONCE))


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """The input embeddings, and those of the output if they are others, with their bias."""
    table: Any = model.get_input_embeddings().weight
    output: Any = model.get_output_embeddings()
    tables = [table] if output is None or output.weight is table else [table, output.weight]
    bias = getattr(output, "bias", None)
    return tables if bias is None else [*tables, bias]
