"""Untrained models with a tokenizer or image processor, small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(59))]

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = BertConfig(
    **TEXT, max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3
)
VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

MODELS = {
    "bert-with-head": lambda: BertForSequenceClassification(BERT),
    "bert-without-head": lambda: BertModel(BERT),
    "bert-without-pooler": lambda: BertForMaskedLM(BERT),
    "vit-of-10-classes": lambda: ViTForImageClassification(ViTConfig(**VIT, num_labels=10)),
    "vit-without-head": lambda: ViTModel(ViTConfig(**VIT)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=2, tie_word_embeddings=False)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2)),
}


def save_model(name: str, folder: Path) -> None:
    """Save the model of that name with seeded weights, in the layout of Hugging Face."""
    torch.manual_seed(3)
    model = MODELS[name]()
    model.save_pretrained(folder)
    if name.startswith("vit"):
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    else:
        tokenizer(with_padding=not name.startswith("gpt2")).save_pretrained(folder)


def tokenizer(with_padding: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
    if with_padding:
        names["pad_token"] = "[PAD]"
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names)
