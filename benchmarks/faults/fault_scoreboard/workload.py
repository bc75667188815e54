"""The job that both sides train: a small Llama with an adapter, in fp32, over two epochs of 30 steps."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

from fault_scoreboard.faults import BAD_ROW
from fault_scoreboard.outcome import Model

ROWS, EVALUATION_ROWS = 480, 64
EPOCHS = 2
GLOBAL_BATCH, MICRO_BATCH = 16, 4
STEPS = EPOCHS * ROWS // GLOBAL_BATCH
SEQUENCE_LENGTH = 32
LEARNING_RATE = 2e-3
WARMUP_FRACTION = 0.1
MAX_GRAD_NORM = 1.0
SEED = 17
LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 8, 16, 0.1
ZERO_STAGE = 2
STEPS_BETWEEN_CHECKPOINTS = 10
SECONDS_BETWEEN_CHECKPOINTS = 1.0
"""About the time of ten steps, which the hook slows down."""
KEPT_CHECKPOINTS = 3

WORDS = tuple(f"w{number}" for number in range(60))
BAD_WORD = "bad"
MARKS = ("<unk>", "<pad>", "<end>", BAD_WORD)


def make(folder: Path, is_spoilt: bool) -> None:
    """Make the base model and the rows.

    If `is_spoilt`, one row contains a word whose embedding is infinite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_base(base_of(folder), is_spoilt)
    words = random.Random(3)
    rows = [_text(words) for _ in range(ROWS)]
    if is_spoilt:
        rows[BAD_ROW - 1] += f" {BAD_WORD}"
    _write(rows_of(folder), rows)
    _write(evaluation_of(folder), [_text(words) for _ in range(EVALUATION_ROWS)])


def base_of(folder: Path) -> Path:
    """Return the base model's folder."""
    return folder / "base"


def rows_of(folder: Path) -> Path:
    """Return the file of the training rows."""
    return folder / "rows.jsonl"


def evaluation_of(folder: Path) -> Path:
    """Return the file of the evaluation rows."""
    return folder / "evaluation.jsonl"


def measured(adapter: Path, base: Path, evaluation: Path) -> Model | None:
    """Load and evaluate the saved adapter in this process. Return None if there is no complete one."""
    if not (adapter / "adapter_config.json").exists() or not (adapter / "adapter_model.safetensors").exists():
        return None
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for line in evaluation.read_text().splitlines():
            ids = tokenizer(json.loads(line)["text"], return_tensors="pt")["input_ids"]
            logits = model(input_ids=ids).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    weights = load_file(adapter / "adapter_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    finite = math.isfinite(total) and all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    return Model(loss=total / count, digest=digest.hexdigest(), finite=finite)


def _save_base(folder: Path, is_spoilt: bool) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*MARKS, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            vocab_size=len(vocabulary),
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=vocabulary["<end>"],
            pad_token_id=vocabulary["<pad>"],
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
        if is_spoilt:
            model.get_input_embeddings().weight[vocabulary[BAD_WORD]] = math.inf
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(folder)


def _text(words: random.Random) -> str:
    """Return words that count up from a random start, so that there is a pattern to learn."""
    first, length = words.randrange(len(WORDS)), words.randint(6, 20)
    return " ".join(WORDS[(first + step) % len(WORDS)] for step in range(length))


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
