"""Creates DeepSpeed's engine for the start model."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION
from safetensors import SafetensorError
from transformers import PreTrainedModel

from finetune_trainer.contract import RunConfig
from finetune_trainer.deepspeed_config import deepspeed_config, sums_gradients_itself
from finetune_trainer.errors import InvalidError, TrainingError
from finetune_trainer.model.load import load_model
from finetune_trainer.model.optimizer import adamw, sum_in_fp32
from finetune_trainer.model.prepare import Prepared
from finetune_trainer.model.refusal import MAX_CHARACTERS, in_one_line
from finetune_trainer.ranks.distributed import Ranks

OF_THE_MACHINE = re.compile(
    r"gloo|nccl|cuda|cudnn|cublas|memory|connect|socket|broken pipe|timed? ?out|peer|driver", re.IGNORECASE
)
"""A pattern in the messages of errors that have nothing to do with the model."""
MAX_REASON = 200
"""The greatest number of characters that a message quotes of another library's error."""


def load_engine(config: RunConfig, prepared: Prepared, ranks: Ranks) -> Any:
    """Load the start model and return its engine, in training mode. All ranks call this.

    Raises InvalidError if the model cannot be trained at this ZeRO stage, or if DeepSpeed refuses the user's own keys.
    """
    settings = deepspeed_config(config)

    def loaded() -> torch.nn.Module:
        with refusals_named(config, prepared), _loaded_layers_left_alone():
            return load_model(config, prepared, settings)

    def initialized() -> Any:
        with refusals_named(config, prepared):
            return initialize(config, model, settings)

    model = ranks.every(loaded)
    engine = ranks.every(initialized)
    engine.train()
    return engine


@contextmanager
def refusals_named(config: RunConfig, prepared: Prepared) -> Iterator[None]:
    """Turn an error of a library that cannot work with this model into an InvalidError, since a retry would not help.

    Errors of memory, disk, GPU and the network between ranks are raised unchanged, and may be retried.
    """
    try:
        yield
    except (TrainingError, MemoryError, OSError, SafetensorError):
        raise
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        words = in_one_line(error, MAX_REASON)
        remedy = "set deepspeed.zeroStage to 2" if config.zero_stage == 3 else "use another model"
        raise InvalidError(
            f"model.uri: {config.model.uri}, a model of type {prepared.settings.model.model_type}, cannot be trained "
            f"with deepspeed.zeroStage {config.zero_stage} ({type(error).__name__}: {words}); {remedy}"
        ) from None


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether an error concerns memory, GPU or network.

    torch has subclasses of RuntimeError for such errors, but gloo raises plain RuntimeErrors, recognised by their
    messages.
    """
    if not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError):
        return False
    return type(error) is not RuntimeError or OF_THE_MACHINE.search(str(error)) is not None


@contextmanager
def _loaded_layers_left_alone() -> Iterator[None]:
    """Keep transformers from initialising layers whose weights were loaded under ZeRO-3.

    transformers calls a model's initialisation also for such layers, and relies on it to leave loaded weights
    unchanged. The sharded weights are empty at this point, however, and some models (ResNet, RegNet) compute with their
    shape. Layers with missing weights are initialised as usual.
    """
    models: Any = PreTrainedModel
    initialize_weights = models._initialize_weights

    def unless_loaded(model: PreTrainedModel, module: torch.nn.Module, is_custom_code: bool = False) -> None:
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        # The initialisation of a module without own weights may use those of its children (Funnel).
        weights = own or [*module.parameters(), *module.buffers()]
        if not weights or not all(getattr(weight, "_is_hf_initialized", False) for weight in weights):
            initialize_weights(model, module, is_custom_code)

    models._initialize_weights = unless_loaded
    try:
        yield
    finally:
        models._initialize_weights = initialize_weights


def initialize(config: RunConfig, model: torch.nn.Module, settings: dict[str, Any]) -> Any:
    """Create the engine for a loaded model. All ranks call this. `settings` is DeepSpeed's configuration.

    Raises InvalidError if DeepSpeed refuses the user's own keys.
    """
    _import_muon_uncompiled()
    try:
        deepspeed.DeepSpeedConfig(settings)
    except Exception as error:
        if not config.deepspeed:
            raise
        reason = in_one_line(error, MAX_CHARACTERS)
        raise InvalidError(f"deepspeed.config: DeepSpeed refuses it ({reason}); correct or remove the key") from None
    with _one_optimizer_at_stage_1():
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=adamw(model, config), config=settings, dist_init_required=False
        )
    if sums_gradients_itself(config):
        sum_in_fp32(engine)
    # In bf16 without ZeRO, DeepSpeed first performs a step with zero gradients. Adam's bias correction would count it,
    # and the first updates would be too small by a quarter.
    engine.basic_optimizer.state.clear()
    return engine


@contextmanager
def _one_optimizer_at_stage_1() -> Iterator[None]:
    """Make DeepSpeed use its usual ZeRO optimizer at stage 1, also for bf16 with gradients that are summed in fp32.

    DeepSpeed would choose another one, which reduces whole gradients where each rank needs its share only. Besides,
    each rank would clip by the norm of the parameters that it used itself, so ranks that used different ones
    (LayerDrop) would disagree. The usual optimizer can sum in fp32 as well: it does so for fp16, and for bf16 with an
    offloaded optimizer.
    """
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
    """Import DeepSpeed's Muon optimizer without compiling its kernels.

    DeepSpeed imports it only to check the optimizer's type. The compilation would import torch's compiler needlessly,
    which takes a fifth of the time to the first step.
    """
    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled
