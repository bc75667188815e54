"""Determines when the model is evaluated, which evaluation is the best, and whether the training ends early.

All of this depends only on the training's position, which every checkpoint stores. An interrupted training therefore
selects the same model, and ends at the same step, as one without interruption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from finetune_trainer.checkpoint.files import Best, Position
from finetune_trainer.contract import RunConfig

LOWER_IS_BETTER = frozenset({"perplexity"})


def evaluation_is_due(config: RunConfig, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Return whether the model is evaluated after this optimizer step, counted from 1.

    If the best model is kept, the model is always evaluated after the last step, so that it can be chosen too.
    """
    interval = config.evaluate_every_steps or steps_per_epoch
    return step % interval == 0 or (step == total_steps and config.keep == "Best")


def after_evaluation(config: RunConfig, before: Position, metrics: Mapping[str, float]) -> Position:
    """Return the position, updated with this evaluation.

    The run's first metric decides. Of two models with the same value, the one with the lower loss is better.
    """
    metric = config.metrics[0]
    now = Best(step=before.step, metric=metric, value=metrics[metric], loss=metrics["loss"])
    update: dict[str, object] = {"evaluated": True}
    if before.best is None or _rank(now) > _rank(before.best):
        update["best"] = now
    if before.improved_to is None or _gain(now, before.improved_to) > _min_delta(config):
        update |= {"improved_to": now.value, "evaluations_without_improvement": 0}
    else:
        update["evaluations_without_improvement"] = before.evaluations_without_improvement + 1
    return before.model_copy(update=update)


def ends_early(config: RunConfig, position: Position) -> bool:
    """Return whether the training ends here because the metric has not improved for `patience` evaluations."""
    stopping = config.training.early_stopping
    return stopping is not None and position.evaluations_without_improvement >= stopping.patience


def _rank(best: Best) -> tuple[float, float]:
    """Return a sort key; greater is better."""
    return (-best.value if best.metric in LOWER_IS_BETTER else best.value, -best.loss)


def _gain(now: Best, reference: float) -> float:
    """Return by how much the metric is better than the reference; 0 if the difference is not finite."""
    gain = reference - now.value if now.metric in LOWER_IS_BETTER else now.value - reference
    return gain if math.isfinite(gain) else 0.0


def _min_delta(config: RunConfig) -> float:
    stopping = config.training.early_stopping
    return stopping.min_delta if stopping else 0.0
