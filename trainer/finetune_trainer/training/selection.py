"""When the model is evaluated, which evaluation is the best one, and whether the training ends early.

All of it is a function of the training's position, which every checkpoint stores. A training that is interrupted
therefore selects the same model, and ends at the same step, as one that runs without interruption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from finetune_trainer.checkpoint.files import Best, Position
from finetune_trainer.contract import RunConfig

LOWER_IS_BETTER = frozenset({"perplexity"})


def evaluation_is_due(config: RunConfig, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Whether the model is evaluated after this optimizer step (counted from 1).

    The last step is always one of them if the best model is wanted: it is a candidate like the others.
    """
    interval = config.evaluate_every_steps or steps_per_epoch
    return step % interval == 0 or (step == total_steps and config.keep == "Best")


def after_evaluation(config: RunConfig, before: Position, metrics: Mapping[str, float]) -> Position:
    """The position with this evaluation taken into account.

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
    """Whether the training ends here because the metric has not improved for `patience` evaluations."""
    stopping = config.training.early_stopping
    return stopping is not None and position.evaluations_without_improvement >= stopping.patience


def _rank(best: Best) -> tuple[float, float]:
    """Greater is better."""
    return (-best.value if best.metric in LOWER_IS_BETTER else best.value, -best.loss)


def _gain(now: Best, reference: float) -> float:
    """How much better the metric is than the reference."""
    gain = reference - now.value if now.metric in LOWER_IS_BETTER else now.value - reference
    return gain if math.isfinite(gain) else 0.0


def _min_delta(config: RunConfig) -> float:
    stopping = config.training.early_stopping
    return stopping.min_delta if stopping else 0.0
