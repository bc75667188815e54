"""Renders the rows as docs/models.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from models_table.left_out import LEFT_OUT
from models_table.results import COLUMNS, Outcome, Row

from finetune_trainer.contract import TASKS, Task

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
INTRODUCTION = """\
# Models

Which architectures of transformers train here, and what the trainer says of the others. Each architecture that
transformers has for a task is built with two layers, a width of 32 and random weights, and trained for three steps by
two processes on CPUs, by the same code that trains in a pod. The result is saved, and loaded again by transformers and
PEFT alone. A cell says ✓ if the loaded model has the loss of the trained one on the same rows, within 0.0001 nats, and
a number in brackets if the trainer refuses the model with the sentence of that number below the table.

The tables say that the code of an architecture, the trainer, DeepSpeed and PEFT work together. They say nothing of how
well a model learns, or of memory. `merged` is the adapter of LoRA merged into a copy of its base. An encoder is refused
for CausalLM because it reads both ways; one whose config.json says that it is a decoder (`is_decoder`) is not.

Versions: {versions}. The table is made by:

```sh
make models
```
"""


def page(rows: Sequence[Row], versions: dict[str, str]) -> str:
    """Render the whole document. `versions` are those of the libraries."""
    said = ", ".join(f"{library} {version}" for library, version in versions.items())
    parts = [INTRODUCTION.format(versions=said), _summary(rows)]
    parts += [_task(task, [row for row in rows if row.task == task]) for task in TASKS if _has(rows, task)]
    return "\n".join([*parts, _left_out()])


def _has(rows: Iterable[Row], task: Task) -> bool:
    return any(row.task == task for row in rows)


def _summary(rows: Sequence[Row]) -> str:
    heads = ["task", "architectures", *COLUMNS, "refused in all"]
    lines = []
    for task in TASKS:
        mine = [row for row in rows if row.task == task]
        if mine:
            trained = [sum(row.outcomes[column].ended == "trained" for row in mine) for column in COLUMNS]
            refused = sum(all(outcome.ended == "refused" for outcome in row.outcomes.values()) for row in mine)
            lines.append([task, len(mine), *trained, refused])
    return "Architectures that train:\n\n" + _table(heads, lines)


def _task(task: Task, rows: Sequence[Row]) -> str:
    sentences: dict[str, int] = {}
    lines = []
    for row in rows:
        cells = []
        for column in COLUMNS:
            sentence = _general(row, row.outcomes[column])
            cells.append("✓" if sentence is None else f"({sentences.setdefault(sentence, len(sentences) + 1)})")
        lines.append([f"`{row.architecture}`", row.model_class, *cells])
    notes = "".join(f"- ({number}) {sentence}\n" for sentence, number in sentences.items())
    return f"## {task}\n\n" + _table(["architecture", "class", *COLUMNS], lines) + (f"\n{notes}" if notes else "")


def _general(row: Row, outcome: Outcome) -> str | None:
    """Return the message without names of the architecture, so that many rows share one entry.

    Returns None if there is no message.
    """
    if outcome.sentence is None:
        return None
    sentence = f"FAILED: {outcome.sentence}" if outcome.ended == "failed" else outcome.sentence
    named = sentence.replace(f"workspace://models/{row.architecture}", "URI")
    return named.replace(f"of type {row.architecture}", "of type TYPE").replace(row.model_class, "CLASS")


def _left_out() -> str:
    lines = [[f"`{architecture}`", reason] for architecture, reason in sorted(LEFT_OUT.items())]
    return (
        "## Not in the tables\n\nNo small model can be made of these architectures from a configuration alone.\n\n"
        + _table(["architecture", "why"], lines)
    )


def _table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows)
