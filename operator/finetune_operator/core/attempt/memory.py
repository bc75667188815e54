"""Plans the next attempt after memory ran out: the same run with a smaller plan, as long as there is one.

The global batch stays the same, and therefore the training curve does too. First a forward pass takes half the rows,
and a step takes twice as many passes. Then activations are computed again in the backward pass, which takes time. Then
the rows are halved again, down to a single one.
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
    """The memory plan of the next attempt."""

    micro_batch_size: int
    activation_checkpointing: bool
    sentence: str
    """What the plan changes, as a sentence for the ledger."""


def smaller(run: RunStatus, rows: int) -> Plan | None:
    """Return the next smaller plan than that of the run's attempt; None if there is none.

    `rows` is how many rows that attempt took in a forward pass.
    """
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
