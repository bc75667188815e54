"""Tokenizers: loading one, the length at which rows are cut, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.tasks.task import Settings


def load_tokenizer(folder: Path, remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Raises OSError or ValueError when it has none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    # Without files, transformers makes one of the special tokens alone, to which every word is unknown.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("its vocabulary is empty")
    return tokenizer


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give every token of the tokenizer a row in the model's embeddings."""
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def max_tokens(settings: Settings) -> int:
    """Tokens at which rows are cut: no more than the model has positions for."""
    positions: int = getattr(settings.model, "max_position_embeddings", None) or settings.sequence_length
    longest: int = settings.processor.model_max_length
    return min(settings.sequence_length, positions, longest)


def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """(rows, longest) integers; `filler` at the right of shorter rows."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def attention_mask(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(rows, longest): 1 for a token, 0 for padding."""
    return padded([[1] * len(row) for row in rows], 0)
