"""The next token of a text, of the assistant's words in a chat, or of a completion after its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.causality import reads_left_to_right
from finetune_trainer.tasks.supervision import Supervised, chat, completion, text
from finetune_trainer.tasks.task import IGNORED, Batch, Settings, Task
from finetune_trainer.tasks.text import attention_mask, drawn_tokens, limit_length, load_tokenizer, max_tokens, padded
from finetune_trainer.tasks.vocabulary import make_room

FILLER = 0
"""Token id at padded places. Any would do: the attention mask hides it, and its label is IGNORED."""


class CausalLM(Task):
    """Next-token prediction. Its loss is over supervised tokens, each predicted from those before it."""

    model_types = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    auto_class = AutoModelForCausalLM
    arguments = MappingProxyType({"use_cache": False})

    def load_processor(self, folder: Path, remote_code: bool) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return load_tokenizer(folder, remote_code)

    def can_learn(self, model: PreTrainedModel) -> bool:
        """Whether it reads from left to right: one that reads both ways would see the words that it has to predict."""
        return reads_left_to_right(model)

    def drawn_batch(self, model: Any, processor: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Token ids (4, 16)."""
        return drawn_tokens(model, generator)

    def adapt(self, model: PreTrainedModel, processor: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """No pad token is needed: padding is known by its place."""
        limit_length(model, processor)
        return make_room(model, processor)

    def encode(self, rows: datasets.Dataset, settings: Settings) -> datasets.Dataset:
        """Columns: id, input_ids, labels, count, length. A row may have nothing to learn, but not all of them."""
        tokenizer, longest = settings.processor, max_tokens(settings)

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            features: dict[str, list[Any]] = {"input_ids": [], "labels": [], "count": [], "length": []}
            for ids, supervised in _supervised_rows(columns, tokenizer):
                # A row without any token would attend to nothing, and the softmax of nothing is NaN.
                ids = ids[:longest] or [FILLER]
                labels = [token if counts else IGNORED for token, counts in zip(ids, supervised, strict=False)]
                labels += [IGNORED] * (len(ids) - len(labels))
                features["input_ids"].append(ids)
                features["labels"].append(labels)
                features["count"].append(sum(label != IGNORED for label in labels[1:]))
                features["length"].append(len(ids))
            return features

        encoded_rows = rows.map(
            encoded,
            batched=True,
            remove_columns=[name for name in rows.column_names if name != "id"],
            load_from_cache_file=False,
        )
        if not any(encoded_rows["count"]):
            raise InvalidError(
                f"training.sequenceLength: cut at {longest} tokens, no row has a token left to learn; "
                "give a greater length or rows with longer answers"
            )
        return encoded_rows

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Padded at the right to the longest row."""
        ids = rows["input_ids"]
        labels = padded(rows["labels"], IGNORED)
        labels[torch.tensor(weights) == 0] = IGNORED
        features = {"input_ids": padded(ids, FILLER), "attention_mask": attention_mask(ids)}
        return Batch(features, labels)

    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits at a place predict the token at the next one; the first token is predicted from nothing."""
        following = labels[:, 1:]
        counts = following != IGNORED
        return logits[:, :-1][counts], following[counts]


def _supervised_rows(columns: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> Iterator[Supervised]:
    if "messages" in columns:
        for row, messages in zip(columns["id"], columns["messages"], strict=True):
            yield chat(tokenizer, messages, row)
    elif "completion" in columns:
        for prompt, answer in zip(columns["prompt"], columns["completion"], strict=True):
            yield completion(tokenizer, prompt, answer)
    else:
        for words in columns["text"]:
            yield text(tokenizer, words)
