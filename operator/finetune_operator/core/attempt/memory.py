"""After memory ran out: the same run with a smaller plan, until there is none.

The global batch stays, so the curve does: first half the rows in a forward pass and twice the passes; then activations
that are computed again in the backward pass, which takes time; then fewer rows again, down to a single one.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.v1alpha1 import RunStatus

NOTHING_SMALLER = (
    "a single row in a forward pass, with activations computed again, is the smallest plan; give it more memory, "
    "a higher deepspeed.zeroStage or a shorter training.sequenceLength"
)


@dataclass(frozen=True)
class Plan:
    """Of the next attempt."""

    micro_batch_size: int
    activation_checkpointing: bool
    sentence: str
    """What is different, for the ledger."""


def smaller(run: RunStatus, rows: int) -> Plan | None:
    """The plan after that of the run's attempt, which took so many rows in a forward pass; None if it was the last."""
    halved = run.micro_batch_size is not None
    if rows > 1 and (run.activation_checkpointing or not halved):
        half = rows // 2
        sentence = (
            f"the next attempt takes {half} instead of {rows} rows in a forward pass, at the same global batch: "
            "with dropout another draw of the same objective, without it the same curve"
        )
        return Plan(half, run.activation_checkpointing, sentence)
    if not run.activation_checkpointing:
        sentence = f"the next attempt, with {rows} rows in a forward pass, computes activations again"
        return Plan(rows, True, sentence)
    return None
