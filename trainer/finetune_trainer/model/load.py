"""The model that is trained: the start checkpoint, sharded while it loads under ZeRO-3, with an adapter if asked for.

What the base model lacked (a head, a pooler) has no trained weights that an adapter could adapt. It is trained in full
and saved with the adapter (`modules_to_save`). PEFT's own choice by task type is never relied on: it would freeze a new
pooler and leave it out of the saved adapter, and the reloaded model would answer differently without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config
from transformers.pytorch_utils import Conv1D

from finetune_trainer.contract import Lora, RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.prepare import DTYPES, Prepared
from finetune_trainer.tasks import task_of

LINEAR = (nn.Linear, Conv1D)


def load_model(config: RunConfig, prepared: Prepared, deepspeed: dict[str, Any]) -> PreTrainedModel | PeftModel:
    """The model, in the run's precision. All ranks call this; equal seeds give them equal adapters.

    `deepspeed` is DeepSpeed's configuration. Raises InvalidError when `method.targetModules` names no layer.
    """
    with _sharded_loading(config, deepspeed):
        model: PreTrainedModel = task_of(config.task).auto_class.from_pretrained(
            prepared.start,
            dtype=DTYPES[config.training.precision],
            trust_remote_code=config.allow_remote_code,
            use_safetensors=True,
        )
        if config.training.activation_checkpointing and model.supports_gradient_checkpointing:
            # The reentrant kind gives frozen layers below an adapter no gradient.
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if config.lora is None:
            return model
        torch.manual_seed(config.training.seed)
        # In the precision of the base: DeepSpeed keeps fp32 masters, and fp32 adapters would cost activations in fp32.
        return get_peft_model(model, adapter_config(model, config.lora, prepared), autocast_adapter_dtype=False)


@contextmanager
def _sharded_loading(config: RunConfig, deepspeed: dict[str, Any]) -> Iterator[None]:
    """Under ZeRO-3, from_pretrained shards as it loads while such an object lives. Afterwards it must not: a model that
    one rank loads alone would wait for the others for ever."""
    if config.zero_stage != 3:
        yield
        return
    living = HfDeepSpeedConfig(deepspeed)
    try:
        yield
    finally:
        del living
        unset_hf_deepspeed_config()


def adapter_config(model: PreTrainedModel, lora: Lora, prepared: Prepared) -> LoraConfig:
    """Low-rank adapters on the wanted layers; heads of classifiers and all new parameters in full."""
    _refuse_running_statistics(model)
    in_full = _modules_in_full(model, prepared)
    excluded = [name for name, module in _linears(model) if _within(name, in_full) or _is_output(model, module)]
    layers = sorted({name.rpartition(".")[2] for name, _ in _linears(model) if name not in excluded})
    if not layers:
        raise InvalidError("method.type: LoRA finds no linear layer in the model's body to adapt; use Full")
    targets = lora.target_modules or layers
    for target in targets:
        named = [module for name, module in model.named_modules() if _ends(name, target) and name not in excluded]
        if not named or not all(isinstance(module, LINEAR) for module in named):
            raise InvalidError(
                f"method.targetModules: {target} is no layer of the model that can have an adapter; "
                f"its linear layers are {', '.join(layers)}"
            )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides by it, and takes fractions
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        exclude_modules=[name for name in excluded if any(_ends(name, target) for target in targets)] or None,
        modules_to_save=in_full or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def _refuse_running_statistics(model: nn.Module) -> None:
    """Training changes them whether they are frozen or not, and an adapter does not hold them."""
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        raise InvalidError(
            "method.type: LoRA cannot train a model with batch normalisation, whose running statistics "
            "no adapter holds; use Full"
        )


def _modules_in_full(model: PreTrainedModel, prepared: Prepared) -> list[str]:
    """The innermost modules that own a new parameter, and the head of a classifier, new or not."""
    owners = {parameter.rpartition(".")[0] for parameter in prepared.new_parameters}
    if "" in owners:
        raise InvalidError(
            f"method.type: LoRA cannot train {prepared.new_parameters[0]} in full, which the model lacks; use Full"
        )
    if prepared.classes:
        body = _body(model)
        for child, module in model.named_children():
            if child != body:
                owners.update(
                    f"{child}.{name}".rstrip(".") for name, _ in module.named_modules() if _owns(module, name)
                )
    return sorted(owners)


def _body(model: PreTrainedModel) -> str:
    """The name of the child that is no head. `base_model_prefix` is not always one: that of CLIP's and SigLIP's
    classifiers is the name of the two-towered model. There it is the child with the most parameters."""
    children = dict(model.named_children())
    if model.base_model_prefix in children:
        return model.base_model_prefix
    # Under ZeRO-3 a parameter's own number of elements is that of its shard.
    return max(children, key=lambda name: sum(getattr(p, "ds_numel", p.numel()) for p in children[name].parameters()))


def _owns(module: nn.Module, name: str) -> bool:
    """Whether the submodule has parameters of its own."""
    return any(True for _ in module.get_submodule(name).parameters(recurse=False))


def _linears(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LINEAR)]


def _within(name: str, modules: list[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _ends(name: str, target: str) -> bool:
    """PEFT's rule for names of layers."""
    return name == target or name.endswith(f".{target}")


def _is_output(model: PreTrainedModel, module: nn.Module) -> bool:
    return module is model.get_output_embeddings()
