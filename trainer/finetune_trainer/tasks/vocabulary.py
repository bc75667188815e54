"""Adds and initialises the rows of a model's embeddings for new tokens of its tokenizer.

Users add tokens to a tokenizer, and the rows of such tokens were never trained: either the model has no rows for them,
or they use rows with which the model's authors padded the vocabulary. These rows are initialised with the mean of all
other tokens' rows, so that a new token begins as an average one and not as noise.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.errors import InvalidError

ROWS_AT_ONCE = 8192
"""The number of rows that are converted to fp32 at once, because a whole vocabulary would need gigabytes."""
ZERO_LENGTH = 1e-16
"""The norm up to which a row counts as zero. Untrained rows are often zero, or have decayed to almost zero."""
LENGTH_SPREAD = 0.05
"""The relative spread of untrained rows' norms. Those of random rows with 1000 elements differ by two percent."""
TAIL = 0.01
"""The fraction of trained rows that may have extreme norms."""


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Give every token of the tokenizer a row in the model's embeddings; larger embeddings keep their size.

    Returns the ids, in ascending order, of the tokens that were never trained and may occur in a text; a token that is
    only used for padding is not included. Raises InvalidError if the model's embeddings cannot be enlarged.
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
    """Return the input embeddings (tokens, hidden).

    Returns None for a model without a row for each token, for example one that hashes characters.
    """
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return table if isinstance(table, torch.Tensor) and table.dim() == 2 else None


def _enlarge(model: PreTrainedModel, rows: int) -> None:
    """Resize the embeddings. Raises InvalidError if the model does not support it.

    Some models store the number of tokens in several places of their configuration, so that the saved model could not
    be loaded after resizing. Building the model again without values detects this.
    """
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
    """Return the padding token, unless it is also the end-of-sequence token."""
    return {tokenizer.pad_token_id} - {tokenizer.eos_token_id, None}


def _untrained(table: torch.Tensor, tokenizer: PreTrainedTokenizerBase, used: Collection[int]) -> set[int]:
    """Return the tokens that were added to the tokenizer's own vocabulary and whose rows were never trained.

    Their rows are zero, or have the same norm as rows without a token, where trained rows are shorter or longer. A
    token whose padding row cannot be distinguished from a trained one is not found and keeps its row.
    """
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
    """Set `rows` to the mean of the rows `known`, in all tensors that have a row for each token."""
    for tensor in _tables(model):
        is_known = torch.zeros(tensor.shape[0], dtype=torch.bool)
        is_known[list(known)] = True
        parts = zip(_in_fp32(tensor), is_known.split(ROWS_AT_ONCE), strict=True)
        total = torch.stack([part[mask].sum(0) for part, mask in parts]).sum(0)
        tensor[rows] = (total / len(known)).to(tensor.dtype)


def _in_fp32(table: torch.Tensor) -> Iterator[torch.Tensor]:
    return (rows.float() for rows in table.detach().split(ROWS_AT_ONCE))


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the input embeddings and, unless they are tied to them, the output embeddings, with the output's bias."""
    table: Any = model.get_input_embeddings().weight
    output: Any = model.get_output_embeddings()
    tables = [table] if output is None or output.weight is table else [table, output.weight]
    bias = getattr(output, "bias", None)
    return tables if bias is None else [*tables, bias]
