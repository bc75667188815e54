"""AdamW, the learning rate of every step, and one optimizer step with its gradient norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from finetune_trainer.contract import RunConfig, Training
from finetune_trainer.deepspeed_config import BUCKET_ELEMENTS


def adamw(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over the trained parameters, without weight decay on biases and norms (vectors, that is).

    torch's, because DeepSpeed's own need a compiler in the pod; fused on GPUs. The learning rate is that of the step
    that comes, see `optimizer_step`; until then it is 0.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Under ZeRO-3 a parameter's own shape is that of its shard.
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
    """Of step `step`, counted from 0: rises in equal parts to `learning_rate`, which the last warm-up step has, then
    falls towards 0, which the step after the last would have."""
    warmup = math.ceil(training.warmup_fraction * total_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    factor = 1 - done if training.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return training.learning_rate * factor


def sum_in_fp32(engine: Any) -> None:
    """Let autograd add up the gradients of bf16 parameters in fp32. `reduce_summed` then sends them to the other ranks,
    and not DeepSpeed: for a parameter that a step did not use, it would make a gradient in the parameter's own type,
    which torch refuses."""
    engine.enable_backward_allreduce = False
    for parameter in _trained(engine):
        parameter.grad_dtype = torch.float32


def reduce_summed(engine: Any) -> None:
    """Average over all ranks the gradients of a step that were added up as `sum_in_fp32` says. All ranks call this."""
    for parameter in _trained(engine):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)
    engine.allreduce_gradients(bucket_size=BUCKET_ELEMENTS)


def _trained(engine: Any) -> list[nn.Parameter]:
    return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]


def optimizer_step(engine: Any, rate: float, max_grad_norm: float, clips_itself: bool) -> float:
    """Clip and apply the gradients of a step at this learning rate. Returns their norm before clipping.

    If it is not finite, the gradients are dropped on all ranks, nothing of them is left for the next step, and no
    weight has changed: DeepSpeed's optimizers agree on that and clean up by themselves; where there is none, we do.
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
