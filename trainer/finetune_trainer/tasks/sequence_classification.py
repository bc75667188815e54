"""The task of predicting one label for a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import datasets
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.beginning import beginning
from finetune_trainer.tasks.task import Batch, Classification, Settings
from finetune_trainer.tasks.text import (
    TextTask,
    attention_mask,
    max_tokens,
    note_unknown_rows,
    padded,
    set_padding,
    unknown_rows,
)
from finetune_trainer.tasks.vocabulary import make_room

PAD_TOKEN = "<|pad|>"


class SequenceClassification(TextTask, Classification):
    """Text classification. Models that read from left to right answer at the last token before the padding."""

    model_types = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    auto_class = AutoModelForSequenceClassification

    def adapt_processor(self, processor: PreTrainedTokenizerBase, shape: Callable[[], PreTrainedModel | None]) -> None:
        """Add a padding token if the tokenizer has none.

        Models that read from left to right find the last token by the padding's id, which therefore must not occur in a
        text.
        """
        super().adapt_processor(processor, shape)
        if processor.pad_token_id is None:
            processor.add_special_tokens({"pad_token": PAD_TOKEN})

    def adapt(
        self, model: PreTrainedModel, processor: PreTrainedTokenizerBase, columns: Collection[str]
    ) -> tuple[int, ...]:
        """Add embeddings for new tokens, and set the padding's id in the model's configuration."""
        set_padding(model, processor)
        return make_room(model, processor)

    def encode(self, rows: datasets.Dataset, settings: Settings, notes: list[str] | None = None) -> datasets.Dataset:
        """Encode the rows into the columns id, input_ids, label, count, length and cut."""
        tokenizer, longest = settings.processor, max_tokens(settings)
        unknown = 0

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            nonlocal unknown
            texts = columns["text"]
            if tokenizer.truncation_side == "right":
                texts = [beginning(tokenizer, text, longest + 1) for text in texts]
            ids = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
            # A row with exactly the greatest length is encoded again with one more token to see whether it was cut.
            full = [place for place, tokens in enumerate(ids) if len(tokens) == longest]
            of_full = [texts[place] for place in full]
            longer = tokenizer(of_full, truncation=True, max_length=longest + 1)["input_ids"] if of_full else []
            cut = {place for place, tokens in zip(full, longer, strict=True) if len(tokens) > longest}
            for row, tokens in zip(columns["id"], ids, strict=True):
                if not tokens:
                    raise InvalidError(f"dataset.columns.text: {row} has no token that the model knows; remove the row")
            unknown += unknown_rows(ids, tokenizer)
            return {
                "input_ids": ids,
                "count": [1] * len(ids),
                "length": [len(tokens) for tokens in ids],
                "cut": [place in cut for place in range(len(ids))],
            }

        encoded_rows = rows.map(encoded, batched=True, remove_columns=["text"], load_from_cache_file=False)
        if settings.model.is_encoder_decoder:
            _refuse_unequal_ends(encoded_rows, settings.model.model_type, tokenizer)
        note_unknown_rows(unknown, len(rows), notes)
        return encoded_rows

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Return a batch that is padded to the longest row."""
        ids = rows["input_ids"]
        features = {
            "input_ids": padded(ids, settings.processor.pad_token_id),
            "attention_mask": attention_mask(ids),
        }
        return Batch(features, self.labels(rows["label"], weights))


def _refuse_unequal_ends(rows: datasets.Dataset, model_type: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InvalidError if the rows have different numbers of end-of-sequence tokens.

    Encoder-decoders answer at the last such token, and find it only if all rows have the same number of them.
    """
    end = tokenizer.eos_token_id
    counts = [tokens.count(end) for tokens in rows["input_ids"]]
    usual = Counter(counts).most_common(1)[0][0] if counts else 0
    unequal = [place for place, count in enumerate(counts) if count != usual]
    if unequal:
        raise InvalidError(
            f"dataset.columns.text: {len(unequal)} of {len(rows)} rows have another number of the token "
            f"{tokenizer.eos_token} than the usual {usual}, the first one at {rows[unequal[0]]['id']}; models of type "
            f"{model_type} need equally many in all rows, so remove it from the text"
        )
