"""(b) Every ZeRO stage with Full and LoRA: train, save, stop, resume, export, and load the result as its users do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from gpu_day.models import BERT, FAMILIES, LLAMA, TINY, VIT, Family, auto_class, save_base, save_rows
from gpu_day.step import Column, Day, Figures, Step, number, yes_or_no

STOP_AFTER, STEPS = 3, 6
ROWS, EVALUATION_ROWS = 48, 24
METHODS = ("Full", "LoRA")
STAGES = (0, 1, 2, 3)
TOLERANCE = 2e-2
"""The largest difference between the loss that the trainer reports and that of a plain load, in bf16: relative, and
absolute below a loss of one. The two use different padding."""


def row_name(family: Family, stage: int, method: str) -> str:
    """Return the name of a combination in the table."""
    return f"{family.name}, ZeRO-{stage}, {method}"


def measure(day: Day) -> None:
    """Measure all combinations at the same time.

    This thread loads the results one by one while others train, because transformers cannot load in several threads.
    """
    from finetune_operator.local.ports import free_ports

    combinations = {row_name(f, s, m): (f, s, m) for f in FAMILIES for s in STAGES for m in METHODS}
    sources = {family: _make(day.folder / family.name, family) for family in FAMILIES}
    ports = dict(zip(day.rows, free_ports(len(day.rows)), strict=True))

    def train(name: str) -> tuple[Path, Figures]:
        family, stage, method = combinations[name]
        folder = day.folder / name.replace(", ", "-")
        return _train_twice(day, sources[family], family, stage, method, folder, ports[name])

    with ThreadPoolExecutor(len(day.rows)) as pool:
        trainings = {pool.submit(train, name): name for name in day.rows}
        for training in as_completed(trainings):
            family, _, method = combinations[trainings[training]]
            with day.row(trainings[training]) as figures:
                run, told = training.result()
                figures.update(told)
                figures["plainLoss"] = plain_loss(family, run, method, day.device)
                figures["equal"] = abs(figures["plainLoss"] - told["loss"]) <= TOLERANCE * max(1.0, told["loss"])
                if not figures["equal"]:
                    raise RuntimeError("a plain load of the result has another loss")


def _make(folder: Path, family: Family) -> Path:
    save_base(folder / "base", family, TINY)
    for name, count, seed in (("rows", ROWS, 3), ("evaluation", EVALUATION_ROWS, 4)):
        save_rows(folder / name, family, [6 + 3 * (place % 5) for place in range(count)], seed=seed)
    return folder


def _train_twice(
    day: Day, source: Path, family: Family, stage: int, method: str, folder: Path, port: int
) -> tuple[Path, Figures]:
    """Stop the training in the middle and resume it.

    Returns the run's folder and the measured figures.
    """
    from finetune_trainer.checkpoint.files import found, read_manifest
    from finetune_trainer.contract import ExitCode
    from gpu_day.runs import LORA, paths_in, run_config, run_rank

    paths, began = paths_in(folder), time.monotonic()
    suffix = "" if family.has_pictures else ".jsonl"
    config = run_config(
        family,
        source / "base",
        source / f"rows{suffix}",
        source / f"evaluation{suffix}",
        day.device,
        stage=stage,
        lora=LORA if method == "LoRA" else None,
        max_steps=STEPS,
    )
    stopped = run_rank(config, paths, port, stop_after=STOP_AFTER)
    if stopped.exit_code != ExitCode.PREEMPTED:
        raise RuntimeError(
            f"the rank should have saved and stopped, but ended with {stopped.exit_code}: {stopped.error}"
        )
    newest = found(paths.run(config) / "checkpoints")[0]
    ended = run_rank(config.model_copy(update={"attempt": 2}), paths, port)
    if ended.result is None:
        raise RuntimeError(f"the resumed rank ended with exit code {ended.exit_code}: {ended.error}")
    return paths.run(config), {
        "stopCode": stopped.exit_code,
        "savedStep": read_manifest(newest.path).position.step,
        "lossBefore": ended.result.base_metrics["loss"],
        "loss": ended.result.metrics["loss"],
        "seconds": time.monotonic() - began,
    }


def plain_loss(family: Family, run: Path, method: str, device: str) -> float:
    """Return the mean loss of the saved result over the run's evaluation rows.

    Only transformers and PEFT are used, row by row.
    """
    import datasets
    import torch
    from torch.nn.functional import cross_entropy

    model = _loaded(family, run, method).to(device).eval()
    processor = _processor(family, run / "output") if family.has_pictures else None
    total, count = 0.0, 0
    for row in datasets.load_from_disk(str(run / "prepared" / "evaluation")):
        if family.has_pictures:
            pixels = processor(images=row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
            inputs, labels = {"pixel_values": pixels.to(device, model.dtype)}, [row["label"]]
        else:
            inputs = {"input_ids": torch.tensor([row["input_ids"]], device=device)}
            labels = row["labels"][1:] if family is LLAMA else [row["label"]]
        with torch.no_grad():
            logits = model(**inputs).logits.float()
        logits = logits[0, :-1] if family is LLAMA else logits
        wanted = torch.tensor(labels, device=device)
        total += float(cross_entropy(logits, wanted, reduction="sum", ignore_index=-100))
        count += sum(label != -100 for label in labels)
    return total / count


def _loaded(family: Family, run: Path, method: str) -> Any:
    from peft import PeftModel

    if method == "Full":
        return auto_class(family).from_pretrained(run / "output", dtype="auto")
    base = auto_class(family).from_pretrained(run / "start", dtype="auto")
    return PeftModel.from_pretrained(base, str(run / "output"), autocast_adapter_dtype=False)


def _processor(family: Family, folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil")


STEP = Step(
    letter="b",
    name="stages",
    title="Every ZeRO stage with Full and LoRA: train, save, stop, resume, export, load",
    seconds=90,
    rows=tuple(row_name(family, stage, method) for family in FAMILIES for stage in STAGES for method in METHODS),
    columns=(
        Column("stopCode", "exit code of the stop"),
        Column("savedStep", "saved at step"),
        Column("lossBefore", "loss before", number(4)),
        Column("loss", f"loss after {STEPS} steps, as reported", number(4)),
        Column("plainLoss", "by a plain load of the result", number(4)),
        Column("equal", "equal", yes_or_no),
        Column("seconds", "s", number(2)),
    ),
    measure=measure,
    small_rows=(
        row_name(LLAMA, 3, "LoRA"),
        row_name(LLAMA, 2, "Full"),
        row_name(BERT, 0, "LoRA"),
        row_name(VIT, 1, "Full"),
    ),
    note=(
        "Tiny models in bf16 and one rank, all trainings at the same time. Each "
        f"stops after {STOP_AFTER} steps, resumes and ends after {STEPS}; a plain load is by transformers and PEFT "
        f"without the trainer, and is equal within {100 * TOLERANCE:.0f} %. One rank proves no collective of NCCL."
    ),
)
