"""Writes the model card: how the model was trained, how well it does, and how to load it. It contains no user data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune_trainer.contract import TASKS, Result, RunConfig, Source
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.model.trust import remote_code

CARD_FILE = "README.md"
LOSS_FILE = "loss.png"


def write_card(
    folder: Path, config: RunConfig, prepared: Prepared, history: Sequence[Mapping[str, Any]], result: Result
) -> None:
    """Write README.md and loss.png into a result's folder. `history` is the records of the run's metrics.jsonl."""
    losses = [(record["step"], record["loss"]) for record in history if record.get("loss") is not None]
    sections = [
        _header(config),
        f"# {config.namespace}/{config.job}, run {config.run}",
        _summary(config, prepared),
        "## Metrics on the evaluation rows",
        _metrics_table(result),
    ]
    if losses:
        _draw_loss(folder / LOSS_FILE, losses, _evaluations(history))
        sections += ["## Loss", f"![Training and evaluation loss over the optimizer steps]({LOSS_FILE})"]
    sections += [
        "## Recipe",
        _recipe_table(config, prepared, result),
        "## How to load it",
        _loading(config, prepared.start, result),
    ]
    temporary = folder / f".{CARD_FILE}"
    temporary.write_text("\n\n".join(sections) + "\n")
    temporary.replace(folder / CARD_FILE)


def _evaluations(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return the step and loss of each evaluation, in the order of the steps."""
    return sorted((record["step"], record["metrics"]["loss"]) for record in history if "split" in record)


def _header(config: RunConfig) -> str:
    header: dict[str, Any] = {
        "library_name": "peft" if config.lora else "transformers",
        "pipeline_tag": TASKS[config.task].pipeline,
        "tags": ["finetune-operator", "deepspeed", *(["lora"] if config.lora else [])],
        "metrics": list(config.metrics),
    }
    if config.model.uri.startswith("hf://"):
        header["base_model"] = config.model.uri.removeprefix("hf://")
        header["base_model_relation"] = "adapter" if config.lora else "finetune"
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---"


def _summary(config: RunConfig, prepared: Prepared) -> str:
    method = "a LoRA adapter" if config.lora else "all parameters"
    classes = f", {prepared.classes} classes" if prepared.classes else ""
    return (
        f"{config.task}{classes}. Trained by [DeepSpeed](https://www.deepspeed.ai) from `{_named(config.model)}`: "
        f"{method}, {len(prepared.train):,} rows. The metrics are those of {len(prepared.evaluation):,} held-out rows."
    )


def _named(source: Source) -> str:
    return f"{source.uri}@{source.revision}" if source.revision else source.uri


def _metrics_table(result: Result) -> str:
    lines = ["| | before | after |", "|-|-|-|"]
    for name, after in sorted(result.metrics.items()):
        before = result.base_metrics.get(name)
        lines.append(f"| {name} | {'' if before is None else f'{before:.4f}'} | {after:.4f} |")
    return "\n".join(lines) + "\n\n*Before* is the start checkpoint; *after* is the saved files, read back."


def _recipe_table(config: RunConfig, prepared: Prepared, result: Result) -> str:
    training, world = config.training, config.world
    recipe: dict[str, Any] = {
        "start model": f"`{_named(config.model)}`",
        "data": f"`{_named(config.dataset.source)}`",
        "evaluation data": _evaluation(config),
        "evaluation rows that are also training rows": f"{prepared.facts.leaked_rows:,}",
        "data digest (sha256)": f"`{prepared.digest}`",
        "model digest (sha256)": f"`{result.digest}`",
        "parameters": f"{result.parameters:,}, of which {result.trainable_parameters:,} were trained",
        "optimizer steps": _steps(config, result),
        "global batch size": training.global_batch_size,
        "learning rate": f"{training.learning_rate:g}, {training.schedule}",
        "warm-up": f"{training.warmup_fraction:g} of the steps",
        "optimizer": f"AdamW, weight decay {training.weight_decay:g}",
        "gradient clipping": f"norm {training.max_grad_norm:g}" if training.max_grad_norm else "none",
        "precision": training.precision,
        "seed": training.seed,
        "nodes x processes": f"{world.nodes} x {world.processes_per_node}, ZeRO stage {config.zero_stage}",
        "configuration (sha256)": f"`{config.digest}`",
    }
    if TASKS[config.task].reads == "text":
        recipe["sequence length"] = f"{prepared.facts.effective_length} tokens"
        recipe["rows that were cut to it"] = f"{prepared.facts.cut_rows:,}"
        recipe["rows with nothing left to learn"] = f"{prepared.facts.empty_rows:,}"
    if prepared.new_tokens:
        recipe["new tokens"] = f"{len(prepared.new_tokens):,}, their embeddings are trained"
    if config.lora:
        lora = config.lora
        recipe["LoRA"] = f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}"
    if prepared.classes:
        labels = prepared.settings.model.id2label or {}
        recipe["labels"] = ", ".join(f"`{label}`" for label in labels.values())
        known = ", ".join(f"`{label}`" for label in prepared.known_labels)
        recipe["labels that the base model knew"] = known or "none"
    return "\n".join(["| | |", "|-|-|", *(f"| {name} | {value} |" for name, value in recipe.items())])


def _steps(config: RunConfig, result: Result) -> str:
    """Describe how many steps were trained, which of them is kept, and why."""
    text = f"{result.last_step or result.step}"
    if result.stopped_early:
        assert config.training.early_stopping is not None, "only early stopping ends a training early"
        patience = config.training.early_stopping.patience
        text += f", then stopped early: {config.metrics[0]} had not improved in {patience} evaluations"
    if result.last_step is not None:
        text += f"; the model of step {result.step} is kept, the best by {config.metrics[0]}"
    return text


def _evaluation(config: RunConfig) -> str:
    source, fraction = config.dataset.evaluation_source, config.dataset.evaluation_fraction
    return f"`{_named(source)}`" if source else f"{fraction:g} of the rows, chosen by their content"


def _loading(config: RunConfig, start: Path, result: Result) -> str:
    auto_class, processor = TASKS[config.task].auto_class, TASKS[config.task].processor_class
    # The base model's own code is in the same folder as the weights.
    trust = ", trust_remote_code=True" if config.allow_remote_code and remote_code(start) else ""
    whole = _code(
        f"from transformers import {auto_class}, {processor}",
        f'model = {auto_class}.from_pretrained("{{folder}}"{trust})',
        f'processor = {processor}.from_pretrained("{{folder}}"{trust})',
    )
    if config.lora is None:
        return whole.replace("{folder}", "output")
    text = (
        "This folder holds an adapter. It belongs to the start checkpoint of its run, the folder `start` beside it, "
        "which has the new head: copy both. The path in `adapter_config.json` is that of the pod that trained.\n\n"
    ) + _code(
        "from peft import PeftModel",
        f"from transformers import {auto_class}, {processor}",
        f'model = PeftModel.from_pretrained({auto_class}.from_pretrained("start"{trust}), "output")',
        f'processor = {processor}.from_pretrained("output"{trust})',
    )
    if result.merge_failure:
        text += f"\n\nThere is no merged copy. {result.merge_failure}."
    elif config.merge:
        text += "\n\nThe folder `merged` holds the same model in one piece; it needs nothing else:\n\n"
        text += whole.replace("{folder}", "output/merged")
    return text


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _draw_loss(path: Path, training: Sequence[tuple[int, float]], evaluation: Sequence[tuple[int, float]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(*zip(*training, strict=True), linewidth=1, label="training, each step")
    axes.plot(*zip(*evaluation, strict=True), "o-", markersize=4, label="evaluation")
    axes.legend()
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
