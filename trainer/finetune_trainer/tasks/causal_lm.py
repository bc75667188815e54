"""The task of predicting the next token of a text, of the assistant's messages in a chat, or of a completion."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from finetune_trainer.tasks.beginning import beginning
from finetune_trainer.tasks.causality import reads_left_to_right
from finetune_trainer.tasks.chat import Chat
from finetune_trainer.tasks.supervision import Supervised, completion, text
from finetune_trainer.tasks.task import IGNORED, Batch, Settings
from finetune_trainer.tasks.text import (
    TextTask,
    attention_mask,
    max_tokens,
    note_unknown_rows,
    padded,
    unknown_rows,
)
from finetune_trainer.tasks.turns import end_of_turn_tokens
from finetune_trainer.tasks.vocabulary import make_room

FILLER = 0
"""The token id of padding. Its value does not matter: the attention mask hides it, and its label is IGNORED."""


class CausalLM(TextTask):
    """Next-token prediction. The loss covers the supervised tokens, each predicted from those before it.

    No padding token is needed, because the attention mask identifies the padding.
    """

    model_types = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    auto_class = AutoModelForCausalLM
    arguments = MappingProxyType({"use_cache": False})

    def can_learn(self, model: PreTrainedModel) -> bool:
        """Return whether the model reads from left to right, because it must not see the tokens that it predicts."""
        return reads_left_to_right(model)

    def adapt(
        self, model: PreTrainedModel, processor: PreTrainedTokenizerBase, columns: Collection[str]
    ) -> tuple[int, ...]:
        """Add embeddings for new tokens, and let generation stop at the tokens that end the learned answers."""
        ends = end_of_turn_tokens(processor) if "messages" in columns else (processor.eos_token_id,)
        _stop_at(model, [end for end in ends if end is not None])
        return make_room(model, processor)

    def encode(self, rows: datasets.Dataset, settings: Settings, notes: list[str] | None = None) -> datasets.Dataset:
        """Encode the rows into the columns id, input_ids, labels, count, length and cut.

        A row may have nothing to learn.
        """
        tokenizer, longest = settings.processor, max_tokens(settings)
        chat = Chat(tokenizer) if "messages" in rows.column_names else None
        unknown = 0

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            nonlocal unknown
            features: dict[str, list[Any]] = {"input_ids": [], "labels": [], "count": [], "length": [], "cut": []}
            for ids, supervised in _supervised_rows(columns, tokenizer, chat, longest):
                features["cut"].append(len(ids) > longest)
                # A row without tokens would have no position to attend to, and the softmax over no position is NaN.
                ids = ids[:longest] or [FILLER]
                labels = [token if counts else IGNORED for token, counts in zip(ids, supervised, strict=False)]
                labels += [IGNORED] * (len(ids) - len(labels))
                features["input_ids"].append(ids)
                features["labels"].append(labels)
                features["count"].append(sum(label != IGNORED for label in labels[1:]))
                features["length"].append(len(ids))
            unknown += unknown_rows(features["input_ids"], tokenizer)
            return features

        encoded_rows = rows.map(
            encoded,
            batched=True,
            remove_columns=[name for name in rows.column_names if name != "id"],
            load_from_cache_file=False,
        )
        if chat is not None and notes is not None:
            notes += chat.notes
        note_unknown_rows(unknown, len(rows), notes)
        return encoded_rows

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Return a batch that is padded at the right to the longest row."""
        ids = rows["input_ids"]
        labels = padded(rows["labels"], IGNORED)
        labels[torch.tensor(weights) == 0] = IGNORED
        features = {"input_ids": padded(ids, FILLER), "attention_mask": attention_mask(ids)}
        return Batch(features, labels)

    def aligned(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits at each position with the label at the next one; the first token is never predicted."""
        following = labels[:, 1:]
        counts = following != IGNORED
        return logits[:, :-1][counts], following[counts]


def _supervised_rows(
    columns: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, chat: Chat | None, longest: int
) -> Iterator[Supervised]:
    """Yield the supervised rows, at least up to the token after the first `longest` ones.

    Conversations are tokenised as a whole, because all of their tokens must be compared to find out where a turn ends
    and whether it ends at all.
    """
    if chat is not None:
        yield from chat.supervised_rows([json.loads(text) for text in columns["messages"]], columns["id"])
    elif "completion" in columns:
        for prompt, answer in zip(columns["prompt"], columns["completion"], strict=True):
            read = beginning(tokenizer, prompt + answer, longest + 1)
            yield completion(tokenizer, prompt[: len(read)], read[len(prompt) :])
    else:
        for words in columns["text"]:
            yield text(tokenizer, beginning(tokenizer, words, longest + 1))


def _stop_at(model: PreTrainedModel, ends: Sequence[int]) -> None:
    """Add these ids to the tokens at which generation stops."""
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return  # The model cannot generate text.
    own = generation.eos_token_id
    known = [] if own is None else [own] if isinstance(own, int) else list(own)
    if new := [end for end in ends if end not in known]:
        generation.eos_token_id = known + new
