"""(e) The memory of a forward and backward pass of an 8B-shaped model, by tokens, rows and activation checkpointing."""

from __future__ import annotations

import statistics
from typing import Any

from gpu_day.device import free, peak
from gpu_day.models import LLAMA, LLAMA_8B, TINY, config_of
from gpu_day.step import Column, Day, Step, gibibytes, number, yes_or_no

LAYERS = 4
TOKENS = (512, 2048, 8192)
ROWS = (1, 8)
STEPS = 3
KEPT, COMPUTED_AGAIN = "activations kept", "computed again"
SMALL_SHAPE = {**TINY, "vocab_size": 512, "max_position_embeddings": 8192}
SMALL_DIVISOR = 32


def row_name(rows: int, tokens: int, activations: str) -> str:
    """Return the name of a shape in the table."""
    return f"{rows} x {tokens:,} tokens, {activations}"


def measure(day: Day) -> None:
    """Measure all shapes, small ones first. The engine is made anew after it ran out of memory."""
    from gpu_day.here import Here, prepared_of, token_rows
    from gpu_day.runs import LORA

    here = Here(day)
    shape = {**LLAMA_8B, "num_hidden_layers": LAYERS} if day.on_gpu else SMALL_SHAPE
    model_config = config_of(LLAMA, shape)
    engine: Any = None
    shapes = [(r, t, a) for t in TOKENS for r in ROWS for a in (COMPUTED_AGAIN, KEPT)]
    for rows, tokens, activations in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        name = row_name(rows, tokens, activations)
        if name not in day.rows:
            continue
        length = tokens if day.on_gpu else tokens // SMALL_DIVISOR
        config = here.config(
            LLAMA, lora=LORA, max_steps=STEPS, global_batch_size=rows, micro_batch_size=rows, sequence_length=length
        )
        train = token_rows([length] * rows, model_config.vocab_size)
        prepared = prepared_of(train, model_config, length)
        with day.row(name) as figures:
            try:
                if engine is None:
                    engine = here.engine(config, LLAMA, model_config, prepared)
                _checkpoint_activations(engine.module, activations == COMPUTED_AGAIN)
                free()
                seconds = list(here.steps(engine, prepared, config))
                figures.update({"fits": True, "peak": peak(), "seconds": statistics.median(seconds[1:])})
                figures["tokensPerSecond"] = rows * length / figures["seconds"]
            except Exception as error:
                engine = None
                if not _ran_out(error):
                    raise
                figures["fits"] = False
        if engine is None:
            free()


def _checkpoint_activations(model: Any, wanted: bool) -> None:
    """Set what `load_model` sets for a run with or without activation checkpointing."""
    base = model.get_base_model()
    if wanted:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()


def _ran_out(error: Exception) -> bool:
    """Return whether the trainer would classify the error as running out of memory."""
    from finetune_trainer.contract import ExitCode
    from finetune_trainer.ranks.distributed import exit_code_of

    return exit_code_of(error) == ExitCode.OUT_OF_MEMORY


STEP = Step(
    letter="e",
    name="memory",
    title=f"Memory and time of an 8B-shaped Llama with {LAYERS} of 32 layers and the whole head, LoRA",
    seconds=45,
    rows=tuple(row_name(r, t, a) for t in TOKENS for r in ROWS for a in (KEPT, COMPUTED_AGAIN)),
    columns=(
        Column("fits", "fits", yes_or_no),
        Column("peak", "peak GiB", gibibytes),
        Column("seconds", "s for a step", number(3)),
        Column("tokensPerSecond", "tokens/s", number(3)),
    ),
    measure=measure,
    small_rows=tuple(row_name(r, 512, a) for r in ROWS for a in (KEPT, COMPUTED_AGAIN)),
    note="bf16, ZeRO-2, one micro-batch for a step. What torch allocates at most, weights included.",
)
