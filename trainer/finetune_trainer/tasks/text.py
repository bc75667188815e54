"""Loads tokenizers, determines the length at which rows are cut, pads rows, and counts rows of unknown tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.tasks.task import Settings, Task

POSITION_TABLE = re.compile(
    r"^(?!.*(vision|audio|image)).*\b(position_embeddings|embed_positions|positions_embed|wpe)$"
)
"""The names of modules that hold a learned vector for each position of a text."""
OTHER_NAMES = ("n_positions", "max_seq_len", "n_ctx", "max_sequence_length")
"""The names of the number of positions in configurations that have no `max_position_embeddings`.

Old T5 models have one of them, but it means nothing there, because their positions are relative.
"""


class TextTask(Task):
    """A task whose processor is a tokenizer, and whose rows are tokens."""

    def load_processor(self, folder: Path, remote_code: bool) -> PreTrainedTokenizerBase:
        """Load the tokenizer."""
        return load_tokenizer(folder, remote_code)

    def adapt_processor(self, processor: PreTrainedTokenizerBase, shape: Callable[[], PreTrainedModel | None]) -> None:
        """Limit the tokenizer's length to the number of positions that the model has."""
        if (model := shape()) is not None:
            limit_length(model, processor)

    def effective_length(self, settings: Settings) -> int:
        """Return the number of tokens at which rows are cut."""
        return max_tokens(settings)


def load_tokenizer(folder: Path, remote_code: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. Raises OSError or ValueError if the folder has none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    # If the files are missing, transformers returns a tokenizer that has only special tokens and knows no word.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("its vocabulary is empty")
    return tokenizer


def limit_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Lower the tokenizer's `model_max_length` to the number of tokens for which the model has learned positions.

    The tables are measured, because their first rows may not be positions: RoBERTa has 514 rows for 512 tokens.
    """
    for name, module in model.named_modules():
        rows = getattr(module, "weight", None)
        if POSITION_TABLE.search(name) and isinstance(rows, torch.Tensor) and rows.dim() == 2:
            padding = getattr(module, "padding_idx", None)
            unused = getattr(module, "offset", 0 if padding is None else padding + 1)
            tokenizer.model_max_length = min(tokenizer.model_max_length, rows.shape[0] - unused)


def set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the padding's id in the model's configuration and in that of its text part."""
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id


def max_tokens(settings: Settings) -> int:
    """Return the number of tokens at which rows are cut: at most the number of positions that the model has."""
    config = settings.model.get_text_config()
    is_relative = hasattr(config, "relative_attention_num_buckets")
    stated = [
        getattr(config, name, None) for name in ("max_position_embeddings", *(() if is_relative else OTHER_NAMES))
    ]
    # Some configurations have -1 for no limit.
    limits = [limit for limit in stated if isinstance(limit, int) and limit > 0]
    longest: int = settings.processor.model_max_length
    return min(settings.sequence_length, longest, *limits)


def unknown_rows(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many rows of token ids consist of the unknown token and special tokens only.

    Rows without an unknown token are not counted.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return 0
    ignored = set(tokenizer.all_special_ids) - {unknown}
    return sum({token for token in row if token not in ignored} == {unknown} for row in rows)


def note_unknown_rows(unknown: int, rows: int, notes: list[str] | None) -> None:
    """Add a sentence to `notes` if there are such rows."""
    if notes is not None and unknown:
        notes.append(
            f"{unknown} of {rows} rows hold only tokens that the tokenizer does not know; a model for their "
            "language or script would learn more from them."
        )


def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Return a tensor (rows, longest) of integers, with `filler` at the right of shorter rows."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def attention_mask(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return a tensor (rows, longest) with 1 for a token and 0 for padding."""
    return padded([[1] * len(row) for row in rows], 0)
