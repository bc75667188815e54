"""What a LoRA adapter trains: low-rank matrices on linear layers, and in full what the base model had not learned.

What the base model lacked (a head, a pooler, rows of the embeddings for new tokens) has no trained weights that an
adapter could adapt. It is trained and saved with the adapter (`modules_to_save`, `trainable_token_indices`). PEFT's own
choice by task type is never relied on: it would freeze a new pooler and leave it out of the saved adapter, and the
reloaded model would answer differently without a word.
"""

from __future__ import annotations

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_trainer.contract import Lora
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.new_tokens import NewTokens, new_tokens
from finetune_trainer.model.prepare import Prepared

LINEAR = (nn.Linear, Conv1D)
BYPASSED_IN_STATE_SPACES = ("x_proj", "dt_proj", "out_proj")
"""Layers of a Mamba block. Its kernels take the weights of these layers, so that an adapter on them has no effect."""


def adapter_config(model: PreTrainedModel, lora: Lora, prepared: Prepared) -> LoraConfig:
    """Low-rank adapters on the wanted layers; heads of classifiers, all new parameters and new tokens in full.

    Raises InvalidError when `method.targetModules` names no layer, or when LoRA cannot train the model."""
    _refuse_running_statistics(model)
    tokens = new_tokens(model, prepared.new_tokens) if prepared.new_tokens else NewTokens()
    in_full = sorted({*_modules_in_full(model, prepared), *tokens.in_full})
    linears = [name for name, module in model.named_modules() if _is_linear(module)]
    output = _output_layer(model)
    possible = [name for name in linears if not _within(name, in_full) and model.get_submodule(name) is not output]
    lost = _lost_when_loaded(model, possible)
    possible = [name for name in possible if name not in lost]
    layers = _defaults(model, possible)
    if not layers:
        raise InvalidError("method.type: LoRA finds no linear layer in the model's body to adapt; use Full")
    if lora.target_modules:
        targets = list(lora.target_modules)
        _check_targets(model, targets, set(linears) - set(possible), possible)
    else:
        targets = _shortest_names(model, layers, in_full)
    wanted = set(possible if lora.target_modules else layers)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides by it, and takes fractions
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=[
            name
            for name, _ in model.named_modules()
            if name not in wanted and not _within(name, in_full) and any(_ends(name, target) for target in targets)
        ]
        or None,
        modules_to_save=in_full or None,
        trainable_token_indices=tokens.rows or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def _refuse_running_statistics(model: nn.Module) -> None:
    """Training changes them whether they are frozen or not, and an adapter does not hold them."""
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        raise InvalidError(
            "method.type: LoRA cannot train a model with batch normalisation, whose running statistics "
            "no adapter holds; use Full"
        )


# ---- what is trained in full ----------------------------------------------------------------------------------------


def _modules_in_full(model: PreTrainedModel, prepared: Prepared) -> set[str]:
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
    return owners


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


# ---- what is adapted ------------------------------------------------------------------------------------------------


def _output_layer(model: PreTrainedModel) -> nn.Module | None:
    try:
        layer: nn.Module | None = model.get_output_embeddings()
    except NotImplementedError:  # by models that have none
        return None
    return layer


def _defaults(model: PreTrainedModel, layers: list[str]) -> list[str]:
    """The layers that are adapted if the user names none."""
    renamed = _renamed_by_peft(model, {name.rpartition(".")[2] for name in layers})
    return [name for name in layers if name.rpartition(".")[2] not in renamed and not _is_left_out(model, name)]


def _renamed_by_peft(model: PreTrainedModel, last_names: set[str]) -> set[str]:
    """Names that PEFT takes for those of experts' layers in older checkpoints: it would adapt the weights into which
    transformers fuses all experts, instead of the layers that have these names."""
    renamed = set()
    for name in last_names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # it wants the other half of the fused weights too
            renamed.add(name)
        if name not in (config.target_modules or ()):
            renamed.add(name)
    return renamed


def _is_linear(module: nn.Module) -> bool:
    """Whether the module multiplies its input by its weight and does nothing else, so that an adapter fits. A class of
    a model's own that is derived from a linear layer may compute something else: it is tried without values."""
    if not isinstance(module, LINEAR) or type(module).forward in (kind.forward for kind in LINEAR):
        return isinstance(module, LINEAR)
    if not isinstance(module, nn.Linear):
        return False
    # Under ZeRO-3 the module's own weights have no shape.
    shapes = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    weights = {name: torch.empty(shapes[name], device="meta") for name, _ in module.named_parameters(recurse=False)}
    try:
        made = functional_call(module, weights, torch.empty(1, module.in_features, device="meta"))
    except Exception:  # whatever the class raises for an input that it does not expect
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, module.out_features)


def _lost_when_loaded(model: PreTrainedModel, layers: list[str]) -> set[str]:
    """The layers whose adapter PEFT would save, and load again under another name that no layer has. It renames the
    weights of an adapter as transformers renames those of older checkpoints, new names too (Laguna)."""
    stored = {f"base_model.model.{name}.lora_A.weight": name for name in layers}
    weights = dict.fromkeys(stored, torch.empty(1, 1, device="meta"))
    found = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(target_modules=layers), weights)
    return {name for key, name in stored.items() if key not in found}


def _is_left_out(model: nn.Module, name: str) -> bool:
    """Whether an adapter on a linear layer would have no effect or could not be merged, or the layer chooses the
    experts of a mixture, which a small adapter should not upset."""
    parent = _parent(model, name)
    is_bypassed = isinstance(parent, nn.MultiheadAttention) or (
        name.endswith(BYPASSED_IN_STATE_SPACES) and hasattr(parent, "A_log") and hasattr(parent, "D")
    )
    return is_bypassed or is_parametrized(model.get_submodule(name)) or _chooses_experts(model, name)


def _chooses_experts(model: nn.Module, name: str) -> bool:
    """Whether the layer is a router, or a part of one. Models have different names for them."""
    parts = name.split(".")
    paths = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return (
        "router" in name
        or parts[-1].endswith("expert_gate")
        or any("Router" in type(model.get_submodule(path)).__name__ for path in paths)
        or any(path.endswith("gate") and hasattr(_parent(model, path), "experts") for path in paths)
    )


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _shortest_names(model: nn.Module, layers: list[str], in_full: list[str]) -> list[str]:
    """Names by which PEFT finds these layers and no others: last names, or full ones where a last name is also that of
    another module. PEFT by itself adapts nothing that is trained in full."""
    wanted = set(layers)
    names = (name for name, _ in model.named_modules() if name not in wanted and not _within(name, in_full))
    others = {name.rpartition(".")[2] for name in names}
    return sorted({name if (last := name.rpartition(".")[2]) in others else last for name in layers})


def _check_targets(model: nn.Module, targets: list[str], excluded: set[str], possible: list[str]) -> None:
    """Raises InvalidError for a name that the user gave and that is no layer's, or not only that of linear layers."""
    for target in targets:
        named = [module for name, module in model.named_modules() if _ends(name, target) and name not in excluded]
        if not named or not all(map(_is_linear, named)):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in possible}))
            raise InvalidError(
                f"method.targetModules: {target} is no layer of the model that can have an adapter; "
                f"its linear layers are {known}"
            )


def _within(name: str, modules: list[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _ends(name: str, target: str) -> bool:
    """PEFT's rule for names of layers."""
    return name == target or name.endswith(f".{target}")
