"""DeepSpeed's engine around the model that training starts from."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION

from finetune_trainer.contract import RunConfig
from finetune_trainer.deepspeed_config import deepspeed_config, sums_gradients_itself
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.load import load_model
from finetune_trainer.model.optimizer import adamw, sum_in_fp32
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.ranks.distributed import Ranks


def load_engine(config: RunConfig, prepared: Prepared, ranks: Ranks) -> Any:
    """The engine around the start model, in training mode. All ranks call this."""
    settings = deepspeed_config(config)
    model = ranks.every(lambda: load_model(config, prepared, settings))
    engine = ranks.every(lambda: initialize(config, model, settings))
    engine.train()
    return engine


def initialize(config: RunConfig, model: torch.nn.Module, settings: dict[str, Any]) -> Any:
    """The engine around a model that is there. All ranks call this. `settings` is DeepSpeed's configuration.

    Raises InvalidError when DeepSpeed refuses the user's own keys."""
    _import_muon_uncompiled()
    try:
        deepspeed.DeepSpeedConfig(settings)
    except Exception as error:
        if not config.deepspeed:
            raise
        reason = " ".join(str(error).split())[:300]
        raise InvalidError(f"deepspeed.config: DeepSpeed refuses it ({reason}); correct or remove the key") from None
    with _one_optimizer_at_stage_1():
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=adamw(model, config), config=settings, dist_init_required=False
        )
    if sums_gradients_itself(config):
        sum_in_fp32(engine)
    # In bf16 without ZeRO, DeepSpeed begins with a step on zero gradients, which Adam's bias correction would count:
    # the first updates would be a quarter too small.
    engine.basic_optimizer.state.clear()
    return engine


@contextmanager
def _one_optimizer_at_stage_1() -> Iterator[None]:
    """For bf16 with gradients summed in fp32, DeepSpeed takes another optimizer at stage 1 than for all else. That one
    reduces whole gradients where each rank needs its share, and each rank clips by the norm of those parameters that
    it used itself, so ranks that used different ones (LayerDrop) would disagree. The usual one sums in fp32 as well:
    it does so for fp16, and for bf16 when the optimizer is offloaded."""
    chosen = DeepSpeedEngine._do_optimizer_sanity_check

    def usual(engine: Any, optimizer: Any) -> Any:
        choice = chosen(engine, optimizer)
        return ZERO_OPTIMIZATION if engine.zero_optimization() else choice

    DeepSpeedEngine._do_optimizer_sanity_check = usual
    try:
        yield
    finally:
        DeepSpeedEngine._do_optimizer_sanity_check = chosen


def _import_muon_uncompiled() -> None:
    """DeepSpeed imports its Muon optimizer to see that ours is another, and that compiles Muon's kernels: torch's
    compiler would be imported for nothing, which takes a fifth of the time to the first step."""
    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled
