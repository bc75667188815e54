"""Models with random weights, their tokenizers and training rows. Nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARKS = ("<unk>", "<pad>", "<end>")
LABELS = ("first", "second", "third")
SEED = 5


@dataclass(frozen=True)
class Family:
    """A kind of model, with its task and the columns of its inputs."""

    name: str
    task: str
    columns: dict[str, str] = field(compare=False)

    @property
    def has_pictures(self) -> bool:
        """Whether the inputs are pictures."""
        return self.task == "ImageClassification"


LLAMA = Family("Llama", "CausalLM", {"text": "text"})
BERT = Family("BERT", "SequenceClassification", {"text": "text", "label": "label"})
VIT = Family("ViT", "ImageClassification", {"image": "image", "label": "label"})
FAMILIES = (LLAMA, BERT, VIT)

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
MEDIUM = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
BERT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
VIT_LARGE = {**BERT_LARGE, "image_size": 224, "patch_size": 16}
LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
"""The shape of Llama 3 8B: https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json."""


def config_of(family: Family, shape: dict[str, int], vocabulary: int = 512) -> Any:
    """Return the model's configuration. `vocabulary` is the size for text models whose shape has none."""
    from transformers import BertConfig, LlamaConfig, ViTConfig

    marks = {"pad_token_id": MARKS.index("<pad>")}
    if family is LLAMA:
        words = {"vocab_size": vocabulary, "max_position_embeddings": 512, **marks}
        return LlamaConfig(**{**words, **shape, "bos_token_id": None, "eos_token_id": MARKS.index("<end>")})
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    if family is BERT:
        return BertConfig(**{"vocab_size": vocabulary, **marks, **shape, **labels})
    return ViTConfig(**{"image_size": 32, "patch_size": 8, **shape, **labels})


def auto_class(family: Family) -> Any:
    """Return the class of transformers that loads the family."""
    from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

    return {
        LLAMA: AutoModelForCausalLM,
        BERT: AutoModelForSequenceClassification,
        VIT: AutoModelForImageClassification,
    }[family]


def save_base(
    folder: Path, family: Family, shape: dict[str, int], vocabulary: int = 512, bad_word: bool = False
) -> Path:
    """Save a base model in Hugging Face layout.

    With `bad_word`, the embedding of the vocabulary's last word is infinite.
    """
    import torch
    from transformers import ViTImageProcessor

    torch.manual_seed(SEED)
    model = auto_class(family).from_config(config_of(family, shape, vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and shape["hidden_size"] < 256:
                parameter.normal_(0, 0.1)  # large enough that training changes the loss
        if bad_word:
            model.get_input_embeddings().weight[-1] = float("inf")
    model.save_pretrained(folder)
    if family.has_pictures:
        side = model.config.image_size
        ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    else:
        tokenizer(vocabulary).save_pretrained(folder)
    return folder


def tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer with one token for each word `w0`, `w1`, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate((*MARKS, *words(vocabulary)))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")


def words(vocabulary: int) -> list[str]:
    """Return the words of a vocabulary of this size."""
    return [f"w{number}" for number in range(vocabulary - len(MARKS))]


def save_rows(path: Path, family: Family, lengths: Sequence[int], vocabulary: int = 512, seed: int = 3) -> Path:
    """Save rows with these numbers of words, or as many pictures; return their path.

    No row contains the vocabulary's last word.
    """
    draw = random.Random(seed)
    if family.has_pictures:
        return _save_pictures(path, len(lengths), draw)
    known = words(vocabulary)[:-1]
    rows = []
    for length in lengths:
        first = draw.randrange(len(known))
        # The words count up, so that there is a pattern to learn.
        text = " ".join(known[(first + place) % len(known)] for place in range(length))
        rows.append({"text": text, **({"label": LABELS[first % len(LABELS)]} if family is BERT else {})})
    file = path.with_suffix(".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _save_pictures(folder: Path, count: int, draw: random.Random) -> Path:
    from PIL import Image

    for number in range(count):
        label = number % len(LABELS)
        (folder / LABELS[label]).mkdir(parents=True, exist_ok=True)
        noise = bytes(min(255, byte // 2 + 60 * label) for byte in draw.randbytes(32 * 32 * 3))
        Image.frombytes("RGB", (32, 32), noise).save(folder / LABELS[label] / f"{number}.png")
    return folder
