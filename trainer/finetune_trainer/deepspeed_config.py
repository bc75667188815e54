"""DeepSpeed's configuration of a run: the planned keys, with the user's raw keys merged last.

Accumulation is always 1 for DeepSpeed: the loop itself decides which micro-batch is the last of a step, because the
last step of an epoch has fewer of them. This module does not import torch, so that a spec can be checked before
anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import InvalidError

PLANNED: Mapping[str, str] = {
    "train_batch_size": "training.globalBatchSize",
    "train_micro_batch_size_per_gpu": "training.globalBatchSize",
    "gradient_accumulation_steps": "training.globalBatchSize",
    "managed_gradient_accumulation": "training.globalBatchSize",
    "gradient_clipping": "training.maxGradNorm",
    "optimizer": "training.learningRate and training.weightDecay",
    "scheduler": "training.schedule and training.warmupFraction",
    "bf16": "training.precision",
    "bfloat16": "training.precision",
    "fp16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "zero_optimization.stage": "deepspeed.zeroStage",
    "zero_force_ds_cpu_optimizer": "training.learningRate and training.weightDecay",
    "steps_per_print": "metrics.jsonl of the run",
}
"""The keys that a user cannot set, and what to use instead. A key covers everything below it."""

BUCKET_ELEMENTS = 50_000_000
"""The number of gradient elements that are reduced together. DeepSpeed's default of 5e8 takes 1 GB of bf16 for each of
two buffers."""


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`.

    Raises InvalidError that names a raw key which clashes with a planned one.
    """
    refuse_planned(config.deepspeed)
    training = config.training
    planned: dict[str, Any] = {
        "train_batch_size": training.micro_batch_size * config.world.size,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if clips_itself(config) else training.max_grad_norm,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        },
    }
    if training.precision == "bf16":
        planned |= _bf16(config.zero_stage)
    return _merged(planned, config.deepspeed)


def _bf16(stage: int) -> dict[str, Any]:
    """Return the keys for a run in bf16, whose gradients are summed in fp32 over the micro-batches of a step.

    In bf16, each of these additions would round to eight bits: after 64 micro-batches the gradient would be wrong by 1
    %. The sum in fp32 takes 4 bytes for each trained parameter instead of 2; at stages 2 and 3 these are divided by the
    number of ranks.

    Stages 0 and 1 reduce their gradients over the ranks once in a step and in fp32, so that nothing is rounded before
    the update. Stages 2 and 3 reduce them after every micro-batch and in bf16, because fp32 would double the traffic:
    there, each micro-batch's sum over the ranks is rounded, once for each addition.

    At stage 0 DeepSpeed cannot sum in fp32 and refuses the key, so `model.engine` lets torch do it.
    """
    keys: dict[str, Any] = {"bf16": {"enabled": True, "check_grad_overflow": True}}
    if stage > 0:
        keys["data_types"] = {"grad_accum_dtype": "fp32"}
    if stage < 2:
        keys["communication_data_type"] = "fp32"
    return keys


def clips_itself(config: RunConfig) -> bool:
    """Return whether the loop clips and checks gradients itself.

    It does so where DeepSpeed passes our optimizer through unchanged: DeepSpeed would clip there, but it neither
    reports the norm nor detects that it is not finite.
    """
    return config.zero_stage == 0 and config.training.precision == "fp32"


def sums_gradients_itself(config: RunConfig) -> bool:
    """Return whether the loop sums the gradients of a step in fp32 and reduces them over the ranks itself.

    It does so where DeepSpeed would sum them in bf16.
    """
    return config.zero_stage == 0 and config.training.precision == "bf16"


def refuse_planned(raw: Mapping[str, Any]) -> None:
    """Raise InvalidError that names a raw key which clashes with a planned one."""
    for key in _leaves(raw):
        for planned, instead in PLANNED.items():
            if f"{key}.".startswith(f"{planned}.") or f"{planned}.".startswith(f"{key}."):
                raise InvalidError(
                    f"deepspeed.config: {key} is planned by the operator; remove it and use {instead} instead"
                )


def _leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all values that are not objects. Empty objects are left out."""
    for key, value in raw.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{key}"


def _merged(planned: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(planned)
    for key, value in raw.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
