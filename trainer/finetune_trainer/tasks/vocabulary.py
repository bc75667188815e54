"""The rows that a model's embeddings have for the tokens of its tokenizer.

Users add tokens to a tokenizer, and no training has touched the rows of such tokens: either the model has no rows for
them yet, or they fall on rows with which the model's authors padded the vocabulary. These rows begin as the mean of the
rows of all other tokens, so that a new token is at first an average one and not noise.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.errors import InvalidError

ROWS_AT_ONCE = 8192
"""Rows that are converted to fp32 at the same time: a whole vocabulary would take gigabytes."""
ZERO_LENGTH = 1e-16
"""Rows that were never trained are often zero, or have decayed to almost zero."""
LENGTH_SPREAD = 0.05
"""How much the lengths of untrained rows differ: those of random rows with 1000 numbers differ by two percent."""
TAIL = 0.01
"""The share of trained rows that may be shorter, or longer, than others are."""


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Give every token of the tokenizer a row in the model's embeddings; embeddings that are larger stay so.

    Returns the ids of the tokens that no training has touched and that a text may hold, in ascending order; a token
    that only fills up batches is not among them. Raises InvalidError for a model whose embeddings cannot be enlarged.
    """
    table = _embeddings(model)
    if table is None:
        return ()
    used = set(tokenizer.get_vocab().values())
    present = table.shape[0]
    needed = max(len(tokenizer), max(used) + 1)
    new = {token for token in used if token >= present} | _untrained(table, tokenizer, used)
    if needed > present:
        _enlarge(model, needed)
    if new:
        _begin_as_mean(model, [*range(present, needed), *(token for token in new if token < present)], used - new)
    return tuple(sorted(new - _fillers(tokenizer)))


def _embeddings(model: PreTrainedModel) -> torch.Tensor | None:
    """(tokens, hidden); None for a model that has no row for each token, but hashes characters, for example."""
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return table if isinstance(table, torch.Tensor) and table.dim() == 2 else None


def _enlarge(model: PreTrainedModel, rows: int) -> None:
    """Some models say in more than one place how many tokens they have: resizing them leaves a configuration by which
    the saved model cannot be loaded."""
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
        with torch.device("meta"):
            again = _embeddings(type(model)(copy.deepcopy(model.config)))
        is_possible = again is not None and again.shape[0] == rows
    except (NotImplementedError, AttributeError, TypeError):
        is_possible = False
    if not is_possible:
        raise InvalidError(
            f"model.uri: the tokenizer needs {rows} rows in the embeddings, and those of a model of type "
            f"{model.config.model_type} cannot be enlarged; remove the tokens that were added to the tokenizer"
        )


def _fillers(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token for padding, unless texts end with it."""
    return {tokenizer.pad_token_id} - {tokenizer.eos_token_id, None}


def _untrained(table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, used: Collection[int]) -> set[int]:
    """Tokens that were added to the tokenizer's own vocabulary and whose rows were never trained.

    Their rows are zero, or as long as the rows that no token has, where trained ones are shorter or longer. A token on
    a padding row that cannot be told from a trained one is not found: it keeps the row as it is."""
    present = table.shape[0]
    added = {token for token in tokenizer.added_tokens_decoder if tokenizer.vocab_size <= token < present}
    if not (added := added - _fillers(tokenizer)):
        return set()
    lengths = torch.cat([rows.norm(dim=1) for rows in _in_fp32(table)])
    has_token = torch.zeros(present, dtype=torch.bool)
    has_token[[token for token in used if token < present]] = True
    trained = lengths[[token for token in used if token < present and token not in added]]
    found = {token for token in added if float(lengths[token]) <= ZERO_LENGTH}
    if not has_token.all() and len(trained):
        shortest = float(lengths[~has_token].min()) * (1 - LENGTH_SPREAD)
        longest = float(lengths[~has_token].max()) * (1 + LENGTH_SPREAD)
        if longest < float(trained.quantile(TAIL)) or shortest > float(trained.quantile(1 - TAIL)):
            found |= {token for token in added if shortest <= float(lengths[token]) <= longest}
    return found


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
