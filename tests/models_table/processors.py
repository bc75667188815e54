"""The tokenizer and the image processors of the models in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.processors import TemplateProcessing
from trainer import tiny
from transformers import (
    ImageGPTImageProcessorPil,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Siglip2ImageProcessorPil,
    ViTImageProcessorPil,
)

from finetune_trainer.contract import TASKS, Task

END = tiny.MARKS[2]
OF_LETTERS = frozenset({"qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"})
"""Architectures for which transformers reads every saved tokenizer as a byte-pair encoding."""


def save_processor(task: Task, config: PreTrainedConfig, folder: Path) -> None:
    """Save the tokenizer or image processor next to the model."""
    processor = tokenizer(task, config) if TASKS[task].reads == "text" else image_processor(config)
    processor.save_pretrained(folder)


def tokenizer(task: Task, config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word.

    It has one token for each letter where transformers allows no other kind of tokenizer for the architecture. A text
    to classify ends with a special token, at which encoder-decoder models classify.
    """
    made = tiny.tokenizer(pad=True)
    if config.model_type in OF_LETTERS:
        vocabulary = {token: number for number, token in enumerate((*tiny.MARKS, *"w0123456789Ġ"))}
        made = Qwen2Tokenizer(vocabulary, merges=[], unk_token=tiny.MARKS[0], pad_token=tiny.MARKS[1], eos_token=END)
    if task != "CausalLM":
        ending = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, made.eos_token_id)])
        made.backend_tokenizer.post_processor = ending
    return made


def image_processor(config: PreTrainedConfig) -> Any:
    """Return an image processor that makes pictures in the size that the model reads.

    The pictures are pixels, except for Siglip2, which reads patches, and ImageGPT, which reads colours as tokens.
    """
    if config.model_type == "siglip2":
        return Siglip2ImageProcessorPil(patch_size=config.vision_config.patch_size, max_num_patches=16)
    if config.model_type == "imagegpt":
        colours = np.random.RandomState(0).uniform(-1, 1, (config.vocab_size - 1, 3))
        return ImageGPTImageProcessorPil(clusters=colours.tolist(), size={"height": 8, "width": 8})
    size = getattr(config, "image_size", None) or 32
    height, width = (size, size) if isinstance(size, int) else size
    return ViTImageProcessorPil(size={"height": height, "width": width})
