"""One label for a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.task import Batch, Classification, Settings
from finetune_trainer.tasks.text import (
    attention_mask,
    drawn_tokens,
    limit_length,
    load_tokenizer,
    max_tokens,
    padded,
    set_padding,
)
from finetune_trainer.tasks.vocabulary import make_room

PAD_TOKEN = "<|pad|>"


class SequenceClassification(Classification):
    """Text to label. Models that read from left to right answer at the last token before the padding."""

    model_types = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    auto_class = AutoModelForSequenceClassification

    def load_processor(self, folder: Path, remote_code: bool) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return load_tokenizer(folder, remote_code)

    def drawn_batch(self, model: Any, processor: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Token ids (4, 16)."""
        return drawn_tokens(model, generator)

    def adapt(self, model: PreTrainedModel, processor: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Such models find the last token by the id of the padding, which must therefore occur nowhere in a text."""
        if processor.pad_token_id is None:
            processor.add_special_tokens({"pad_token": PAD_TOKEN})
        limit_length(model, processor)
        set_padding(model, processor)
        return make_room(model, processor)

    def encode(self, rows: datasets.Dataset, settings: Settings) -> datasets.Dataset:
        """Columns: id, input_ids, label, count, length."""
        tokenizer, longest = settings.processor, max_tokens(settings)

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            ids = tokenizer(columns["text"], truncation=True, max_length=longest)["input_ids"]
            for row, tokens in zip(columns["id"], ids, strict=True):
                if not tokens:
                    raise InvalidError(f"dataset.columns.text: {row} has no token that the model knows; remove the row")
            return {"input_ids": ids, "count": [1] * len(ids), "length": [len(tokens) for tokens in ids]}

        return rows.map(encoded, batched=True, remove_columns=["text"], load_from_cache_file=False)

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Padded to the longest row."""
        ids = rows["input_ids"]
        features = {
            "input_ids": padded(ids, settings.processor.pad_token_id),
            "attention_mask": attention_mask(ids),
        }
        return Batch(features, self.labels(rows["label"], weights))
