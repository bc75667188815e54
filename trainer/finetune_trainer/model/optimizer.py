"""AdamW, the learning rate of each step, and the optimizer step with its gradient norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from finetune_trainer.contract import RunConfig, Training
from finetune_trainer.deepspeed_config import BUCKET_ELEMENTS


def adamw(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Return AdamW for the trained parameters, without weight decay on biases and norms (all vectors).

    It is torch's AdamW, because DeepSpeed's own need a compiler in the pod, and it is fused on GPUs. The learning rate
    is 0 until `optimizer_step` sets that of the step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Under ZeRO-3, `shape` is that of the shard.
    vectors = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    others = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) >= 2]
    groups = [
        {"params": others, "weight_decay": config.training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        fused=config.world.device == "cuda",
    )


def learning_rate(training: Training, step: int, total_steps: int) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly to `learning_rate`, which the last warm-up step has, and then falls to 0, which the step after the
    last one would have.
    """
    warmup = math.ceil(training.warmup_fraction * total_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    factor = 1 - done if training.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return training.learning_rate * factor


def sum_in_fp32(engine: Any) -> None:
    """Let autograd sum the gradients of bf16 parameters in fp32, and keep DeepSpeed from reducing them.

    `reduce_summed` reduces them instead: for a parameter that a step did not use, DeepSpeed would create a gradient of
    the parameter's own type, which torch refuses.
    """
    engine.enable_backward_allreduce = False
    for parameter in _trained(engine):
        parameter.grad_dtype = torch.float32


def reduce_summed(engine: Any) -> None:
    """Average over all ranks a step's gradients that were summed as set by `sum_in_fp32`. All ranks call this."""
    for parameter in _trained(engine):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
    engine.allreduce_gradients(bucket_size=BUCKET_ELEMENTS)


def _trained(engine: Any) -> list[nn.Parameter]:
    return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]


def optimizer_step(engine: Any, rate: float, max_grad_norm: float, clips_itself: bool) -> float:
    """Clip and apply a step's gradients with this learning rate, and return their norm before clipping.

    If the norm is not finite, all ranks drop the gradients, no gradient remains for the next step, and no weight
    changes. DeepSpeed's optimizers agree on this and clear the gradients themselves. If the engine uses torch's
    optimizer unchanged (`clips_itself`), this function does so.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    if clips_itself:
        norm = float(nn.utils.clip_grad_norm_(_trained(engine), max_grad_norm or math.inf))
        if not math.isfinite(norm):
            engine.zero_grad()
            return norm
        engine.step()
        return norm
    if not engine.enable_backward_allreduce:
        reduce_summed(engine)
    engine.step()
    return float(engine.get_global_grad_norm()) if engine.was_step_applied() else math.nan
