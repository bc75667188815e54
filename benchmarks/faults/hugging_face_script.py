"""The plain script: Hugging Face's Trainer, DeepSpeed and PEFT, with the settings of a careful practitioner.

It saves every ten steps and on SIGTERM, resumes from the last checkpoint, keeps the global batch for any number of
ranks, logs a NaN as a NaN, asks for a smaller batch when memory runs out, and does not wait half an hour for a rank.
"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path

import datasets
import deepspeed
import torch
from fault_scoreboard import workload
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

DEEPSPEED = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {"stage": workload.ZERO_STAGE},
}


def main() -> None:
    options = _options()
    # Otherwise DeepSpeed would compile it at the first start if there is a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # With use_cpu, the Trainer does not pass its ddp_timeout on.
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=options.collective_timeout))
    world = int(os.environ["WORLD_SIZE"])
    arguments = TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=workload.EPOCHS,
        per_device_train_batch_size=workload.MICRO_BATCH,
        per_device_eval_batch_size=workload.MICRO_BATCH,
        gradient_accumulation_steps=workload.GLOBAL_BATCH // (workload.MICRO_BATCH * world),
        auto_find_batch_size=True,
        learning_rate=workload.LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=workload.WARMUP_FRACTION,
        max_grad_norm=workload.MAX_GRAD_NORM,
        seed=workload.SEED,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=workload.STEPS_BETWEEN_CHECKPOINTS,
        save_total_limit=workload.KEPT_CHECKPOINTS,
        enable_jit_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        ddp_timeout=options.collective_timeout,
        deepspeed=DEEPSPEED,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    # The Trainer sets the seed too, but after the adapter's initial weights were drawn.
    set_seed(workload.SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    lora = LoraConfig(
        r=workload.LORA_RANK,
        lora_alpha=workload.LORA_ALPHA,
        lora_dropout=options.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = Trainer(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32), lora),
        args=arguments,
        train_dataset=_rows(options.rows, tokenizer),
        eval_dataset=_rows(options.evaluation, tokenizer),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    last = get_last_checkpoint(options.output) if options.output.is_dir() else None
    print(f"resuming from {last}", flush=True)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(options.output / "final"))
    print(f"saved after step {trainer.state.global_step}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "rows", "evaluation", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--dropout", type=float, required=True)
    parser.add_argument("--collective-timeout", type=int, required=True, help="seconds")
    return parser.parse_args()


def _rows(path: Path, tokenizer: AutoTokenizer) -> datasets.Dataset:
    rows = datasets.Dataset.from_json(str(path), cache_dir=str(path.parent / f"cache-{os.environ['RANK']}"))
    return rows.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns=["text"])


if __name__ == "__main__":
    main()
