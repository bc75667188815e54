"""The side of this trainer: its engine and its steps, with the rows in memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gpu_day.device import peak
from gpu_day.here import Here, prepared_of, token_rows
from gpu_day.models import LLAMA, config_of
from gpu_day.record import Record
from gpu_day.registry import step_of
from gpu_day.runs import LORA
from gpu_day.sides.side import matrix_parameters, serve
from gpu_day.step import Day


def main() -> None:
    options = json.loads(sys.argv[1])
    folder = Path(options["folder"])
    here = Here(Day(step_of("f"), options["device"], False, folder, Record(folder / "unused.json", "f", {})))
    model_config = config_of(LLAMA, options["shape"])
    engines: list[Any] = []

    def train(asked: dict[str, Any]) -> dict[str, Any]:
        lengths = asked["lengths"]
        train_rows = token_rows(lengths, model_config.vocab_size)
        prepared = prepared_of(train_rows, model_config, max(lengths))
        config = here.config(
            LLAMA,
            lora=LORA,
            max_steps=options["steps"],
            global_batch_size=asked["rows"],
            micro_batch_size=asked["microBatch"],
            sequence_length=max(lengths),
        )
        if not engines:
            engines.append(here.engine(config, LLAMA, model_config, prepared))
        from finetune_trainer.training.steps import sampler_of

        sampler = sampler_of(config, prepared)
        tokens = [sum(lengths[row] for row in sampler.items(number)) for number in range(options["steps"])]
        seconds = list(here.steps(engines[0], prepared, config))
        return {
            "seconds": seconds[1:],
            "tokens": tokens[1:],
            "peak": peak(),
            "parameters": matrix_parameters(engines[0].module),
            "settings": f"ZeRO-2, micro-batches of {asked['microBatch']}",
        }

    serve(train)


if __name__ == "__main__":
    main()
