"""The side of Hugging Face's Trainer with PEFT, on one device and without DeepSpeed.

Its settings are chosen for speed. Adapters are in bf16 without fp32 master weights, which it would otherwise cast in
every layer. The optimizer is fused, no check of the loss waits for the device, other processes load the data, and rows
of similar length are together if lengths differ.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from gpu_day.device import peak
from gpu_day.models import LLAMA, SEED, config_of, tokenizer
from gpu_day.sides.side import matrix_parameters, serve

WORKERS = 4


def main() -> None:
    import datasets
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    options = json.loads(sys.argv[1])
    on_gpu = options["device"] == "cuda"
    torch.manual_seed(SEED)
    with torch.device(options["device"]):
        base = AutoModelForCausalLM.from_config(config_of(LLAMA, options["shape"]), dtype=torch.bfloat16)
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, adapter, autocast_adapter_dtype=False)

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Records the time of every step, including the device's work."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_begin(self, *arguments: Any, **state: Any) -> None:
            self._note()

        def on_step_end(self, *arguments: Any, **state: Any) -> None:
            self._note()

        def _note(self) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    seen: list[int] = []
    padding = DataCollatorForSeq2Seq(tokenizer(512), padding="longest")

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = padding([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
        # This is a plain number, because reading a tensor would make the host wait for the device.
        batch["useful"] = sum(len(row["input_ids"]) for row in rows)
        return batch

    class Counting(Trainer):  # type: ignore[misc]
        """Records the tokens of every micro-batch, which its collator has counted in a worker."""

        def training_step(self, model: Any, inputs: Any, *arguments: Any, **others: Any) -> Any:
            seen.append(inputs.pop("useful"))
            return super().training_step(model, inputs, *arguments, **others)

    def train(asked: dict[str, Any]) -> dict[str, Any]:
        draw = np.random.RandomState(3)
        ids = [draw.randint(3, model.config.vocab_size, length).tolist() for length in asked["lengths"]]
        rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids, "length": asked["lengths"]})
        clock = Clock()
        seen.clear()
        accumulation = asked["rows"] // asked["microBatch"]
        arguments = TrainingArguments(
            output_dir=options["folder"],
            max_steps=options["steps"],
            per_device_train_batch_size=asked["microBatch"],
            gradient_accumulation_steps=accumulation,
            bf16=on_gpu,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch",
            learning_rate=1e-3,
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length" if asked["mixed"] else "random",
            dataloader_num_workers=WORKERS if on_gpu else 0,
            remove_unused_columns=False,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not on_gpu,
        )
        trainer = Counting(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.train()
        seconds = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
        tokens = [sum(seen[step * accumulation : (step + 1) * accumulation]) for step in range(options["steps"])]
        return {
            "seconds": seconds[1:],
            "tokens": tokens[1:],
            "peak": peak(),
            "parameters": matrix_parameters(model),
            "settings": f"micro-batches of {asked['microBatch']}, fused AdamW, bf16 adapters"
            + (", grouped by length" if asked["mixed"] else "")
            + f", {WORKERS} workers, no DeepSpeed",
        }

    serve(train)


if __name__ == "__main__":
    main()
