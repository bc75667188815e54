"""DeepSpeed's engine around the model that training starts from."""

from __future__ import annotations

import importlib
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import compiler

from finetune_trainer.contract import RunConfig
from finetune_trainer.deepspeed_config import deepspeed_config
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.load import load_model
from finetune_trainer.model.optimizer import adamw
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
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adamw(model, config), config=settings, dist_init_required=False
    )
    # In bf16 without ZeRO, DeepSpeed begins with a step on zero gradients, which Adam's bias correction would count:
    # the first updates would be a quarter too small.
    engine.basic_optimizer.state.clear()
    return engine


def _import_muon_uncompiled() -> None:
    """DeepSpeed imports its Muon optimizer to see that ours is another, and that compiles Muon's kernels: torch's
    compiler would be imported for nothing, which takes a fifth of the time to the first step."""
    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled
