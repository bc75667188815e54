"""Models, tokenizers and rows so small that a training takes a second. Nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import run_configs
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
)

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.pod.paths import Paths

WORDS = tuple(f"w{number}" for number in range(60))
MARKS = ("<unk>", "<pad>", "<end>", "<user>", "<assistant>")
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}" + (
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
LABELS = ("first", "second", "third")
IMAGE_SIZE = 8

CAUSAL_LM, SEQUENCE, IMAGE = "CausalLM", "SequenceClassification", "ImageClassification"
AUTO_CLASSES: dict[str, Any] = {
    CAUSAL_LM: AutoModelForCausalLM,
    SEQUENCE: AutoModelForSequenceClassification,
    IMAGE: AutoModelForImageClassification,
}


def tokenizer(pad: bool, template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word."""
    vocabulary = {token: index for index, token in enumerate((*MARKS, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<pad>" if pad else None
    )
    made.chat_template = template
    return made


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VOCABULARY = len(MARKS) + len(WORDS)


def llama(vocabulary: int = VOCABULARY, **changes: Any) -> PreTrainedConfig:
    """Return a Llama configuration; a Llama model has no dropout for activations."""
    return LlamaConfig(
        **SHAPE, vocab_size=vocabulary, max_position_embeddings=64, bos_token_id=None, eos_token_id=2, **changes
    )


def gpt2(dropout: float = 0.0, **changes: Any) -> PreTrainedConfig:
    """Return a GPT-2 configuration without a pad token."""
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=VOCABULARY, bos_token_id=2, eos_token_id=2,
        **drops, **changes,
    )  # fmt: skip


def bert(dropout: float = 0.0, **changes: Any) -> PreTrainedConfig:
    """Return a BERT configuration; the model attends in both directions and has a pooler."""
    return BertConfig(
        **SHAPE, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=1, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, num_labels=len(LABELS), **changes,
    )  # fmt: skip


def vit(dropout: float = 0.0, labels: int = len(LABELS), **changes: Any) -> PreTrainedConfig:
    """Return a ViT configuration whose pictures have four patches."""
    return ViTConfig(
        **SHAPE, image_size=IMAGE_SIZE, patch_size=4, num_labels=labels, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, **changes,
    )  # fmt: skip


def save_model(folder: Path, task: str, config: PreTrainedConfig, body_only: bool = False) -> Path:
    """Save a base model and its tokenizer or image processor.

    The random weights are large enough to affect the outputs.
    """
    torch.manual_seed(5)
    model = AUTO_CLASSES[task].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    (model.base_model if body_only else model).save_pretrained(folder)
    if task == IMAGE:
        ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)
    else:
        tokenizer(pad=config.model_type != "gpt2").save_pretrained(folder)
    return folder


def sentence(random_words: random.Random, shortest: int = 2, longest: int = 14) -> str:
    """Return words whose number varies widely, so that the ranks get unequal token counts."""
    return " ".join(random_words.choices(WORDS, k=random_words.randint(shortest, longest)))


def labelled_texts(path: Path, count: int, seed: int = 3) -> Path:
    """Write rows with the columns text and label, where the label depends on the text's first word."""
    words = random.Random(seed)
    rows = []
    for _ in range(count):
        text = sentence(words)
        rows.append({"text": text, "label": LABELS[int(text.split()[0][1:]) % len(LABELS)]})
    return write_rows(path, rows)


def prompts(path: Path, count: int, seed: int = 3) -> Path:
    """Write rows with the columns prompt and completion."""
    words = random.Random(seed)
    rows = [{"prompt": sentence(words, 1, 6), "completion": " " + sentence(words, 1, 12)} for _ in range(count)]
    return write_rows(path, rows)


def pictures(folder: Path, count: int, seed: int = 3) -> Path:
    """Write a folder for each label, whose pictures differ in brightness."""
    noise = np.random.RandomState(seed)
    for number in range(count):
        label = number % len(LABELS)
        pixels = noise.randint(0, 100, (10, 12, 3)) + 70 * label
        (folder / LABELS[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / LABELS[label] / f"{number}.png")
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


DATA: dict[str, tuple[Callable[[Path, int, int], Path], contract.Columns, str]] = {
    CAUSAL_LM: (prompts, contract.Columns(prompt="prompt", completion="completion"), "rows.jsonl"),
    SEQUENCE: (labelled_texts, contract.Columns(text="text", label="label"), "rows.jsonl"),
    IMAGE: (pictures, contract.Columns(image="image", label="label"), "pictures"),
}
METRICS: dict[str, tuple[contract.Metric, ...]] = {
    CAUSAL_LM: ("perplexity",),
    SEQUENCE: ("accuracy", "f1"),
    IMAGE: ("accuracy", "f1"),
}


def paths_in(folder: Path, name: str = "scratch") -> Paths:
    """Return the paths of a workspace and of the scratch folder `name`, and make the folders."""
    paths = Paths(workspace=folder / "workspace", claims=folder / "claims", scratch=folder / name)
    for path in (paths.workspace, paths.claims, paths.scratch):
        path.mkdir(parents=True, exist_ok=True)
    return paths


def run_config(
    task: Any,
    model: Path,
    rows: Path,
    evaluation: Path | None = None,
    *,
    columns: contract.Columns | None = None,
    world: int = 1,
    stage: Any = 0,
    lora: contract.Lora | None = None,
    deepspeed: dict[str, Any] | None = None,
    merge: bool = False,
    folder: str = "runs/1-abcdef12",
    checkpoint: contract.Checkpointing | None = None,
    keep: Any = "Last",
    evaluate_every_steps: int | None = None,
    max_bad_fraction: float | None = None,
    **training: Any,
) -> RunConfig:
    """Return the configuration of a run on CPU ranks.

    `training` changes fields of the training section. The default keeps the last step's model, which most tests
    inspect.
    """
    length = {} if "epochs" in training else {"max_steps": 20}
    return run_configs.run_config(
        {"warmup_fraction": 0.2, **length, **training},
        folder=folder,
        task=task,
        model=contract.Source(uri=f"file://{model}"),
        dataset=contract.Dataset(
            source=contract.Source(uri=f"file://{rows}"),
            columns=columns or DATA[task][1],
            evaluation_fraction=None if evaluation else 0.2,
            evaluation_source=contract.Source(uri=f"file://{evaluation}") if evaluation else None,
            max_bad_fraction=max_bad_fraction,
        ),
        lora=lora,
        zero_stage=stage,
        deepspeed=deepspeed or {},
        world=contract.World(nodes=1, processes_per_node=world, device="cpu"),
        metrics=METRICS[task],
        keep=keep,
        evaluate_every_steps=evaluate_every_steps,
        merge=merge,
        **({"checkpoint": checkpoint} if checkpoint else {}),
    )


def make_rows(folder: Path, task: str, count: int) -> Path:
    """Make rows that fit the task. A folder named `evaluation` gets other rows than all other folders."""
    make, _, name = DATA[task]
    return make(folder / name, count, 4 if folder.name == "evaluation" else 3)
