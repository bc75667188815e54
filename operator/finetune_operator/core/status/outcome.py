"""Describes how a training ended and which of its models is the result."""

from __future__ import annotations

from finetune_operator.api.v1alpha1 import ResultStatus


def outcome(result: ResultStatus) -> tuple[str, ...]:
    """Return clauses about the outcome for a sentence.

    There are none if all steps were trained, the result is the last model, and everything that was asked for exists.
    """
    last = result.last_step or result.step
    clauses = []
    if result.stopped_early:
        clauses.append(f"it stopped early after step {last}, because evaluations no longer improved")
    if result.last_step is not None:
        clauses.append(f"of {last} steps, the model of step {result.step} is kept, which evaluated best")
    if result.merge_failure:
        clauses.append(f"there is no merged copy: {result.merge_failure}")
    return tuple(clauses)
