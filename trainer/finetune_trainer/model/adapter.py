"""Configures a LoRA adapter: low-rank matrices on linear layers, and full training of what the base model lacks.

What the base model lacks (a head, a pooler, embeddings of new tokens) has no trained weights to adapt. It is trained
and saved with the adapter (`modules_to_save`, `trainable_token_indices`). PEFT's own choice by task type is not used:
it would freeze a new pooler and leave it out of the saved adapter, and the reloaded model would answer differently
without any error.
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
"""The layers of a Mamba block whose weights its kernels use directly, so that an adapter on them has no effect."""


def adapter_config(model: PreTrainedModel, lora: Lora, prepared: Prepared) -> LoraConfig:
    """Return an adapter for the wanted layers; classifier heads, new parameters and new tokens are trained in full.

    Raises InvalidError if a name in `method.targetModules` is no layer, or if LoRA cannot train the model.
    """
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
    """Raise InvalidError if the model has running statistics.

    A training changes them even if they are frozen, and an adapter does not contain them.
    """
    if any(getattr(module, "running_mean", None) is not None for module in model.modules()):
        raise InvalidError(
            "method.type: LoRA cannot train a model with batch normalisation, whose running statistics "
            "no adapter holds; use Full"
        )


# ---- what is trained in full ----------------------------------------------------------------------------------------


def _modules_in_full(model: PreTrainedModel, prepared: Prepared) -> set[str]:
    """Return the innermost modules that own a new parameter, and the modules of a classifier's head, new or not."""
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
    """Return the name of the child that is the model's body and not a head.

    `base_model_prefix` is not always a child: in the classifiers of CLIP and SigLIP it is the name of the model with
    two towers. The body is then the child with the most parameters.
    """
    children = dict(model.named_children())
    if model.base_model_prefix in children:
        return model.base_model_prefix
    # Under ZeRO-3, `numel` returns the size of the shard.
    return max(children, key=lambda name: sum(getattr(p, "ds_numel", p.numel()) for p in children[name].parameters()))


def _owns(module: nn.Module, name: str) -> bool:
    """Return whether the submodule has parameters of its own."""
    return any(True for _ in module.get_submodule(name).parameters(recurse=False))


# ---- what is adapted ------------------------------------------------------------------------------------------------


def _output_layer(model: PreTrainedModel) -> nn.Module | None:
    try:
        layer: nn.Module | None = model.get_output_embeddings()
    except NotImplementedError:  # Models without output embeddings raise this.
        return None
    return layer


def _defaults(model: PreTrainedModel, layers: list[str]) -> list[str]:
    """Return the layers that are adapted if the user names none."""
    renamed = _renamed_by_peft(model, {name.rpartition(".")[2] for name in layers})
    return [name for name in layers if name.rpartition(".")[2] not in renamed and not _is_left_out(model, name)]


def _renamed_by_peft(model: PreTrainedModel, last_names: set[str]) -> set[str]:
    """Return the names that PEFT mistakes for layers of experts in older checkpoints.

    PEFT would adapt the fused weights of all experts in transformers instead of the layers with these names.
    """
    renamed = set()
    for name in last_names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # PEFT requires the other half of the fused weights too.
            renamed.add(name)
        if name not in (config.target_modules or ()):
            renamed.add(name)
    return renamed


def _is_linear(module: nn.Module) -> bool:
    """Return whether the module only multiplies its input by its weight, so that an adapter fits.

    A model's own subclass of a linear layer may compute something else, so it is run without values.
    """
    if not isinstance(module, LINEAR) or type(module).forward in (kind.forward for kind in LINEAR):
        return isinstance(module, LINEAR)
    if not isinstance(module, nn.Linear):
        return False
    # Under ZeRO-3, the module's own weights are empty.
    shapes = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    weights = {name: torch.empty(shapes[name], device="meta") for name, _ in module.named_parameters(recurse=False)}
    try:
        made = functional_call(module, weights, torch.empty(1, module.in_features, device="meta"))
    except Exception:  # The class may raise anything for an input that it does not expect.
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, module.out_features)


def _lost_when_loaded(model: PreTrainedModel, layers: list[str]) -> set[str]:
    """Return the layers whose adapter would be lost, because PEFT loads it under a name that no layer has.

    PEFT renames the weights of an adapter as transformers renames those of older checkpoints, even if the names are new
    (Laguna).
    """
    stored = {f"base_model.model.{name}.lora_A.weight": name for name in layers}
    weights = dict.fromkeys(stored, torch.empty(1, 1, device="meta"))
    found = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(target_modules=layers), weights)
    return {name for key, name in stored.items() if key not in found}


def _is_left_out(model: nn.Module, name: str) -> bool:
    """Return whether a linear layer is not adapted by default.

    Either an adapter would have no effect or could not be merged, or the layer selects the experts of a mixture, which
    a small adapter should not disturb.
    """
    parent = _parent(model, name)
    is_bypassed = isinstance(parent, nn.MultiheadAttention) or (
        name.endswith(BYPASSED_IN_STATE_SPACES) and hasattr(parent, "A_log") and hasattr(parent, "D")
    )
    return is_bypassed or is_parametrized(model.get_submodule(name)) or _chooses_experts(model, name)


def _chooses_experts(model: nn.Module, name: str) -> bool:
    """Return whether the layer is a router or a part of one. Models have different names for routers."""
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
    """Return names by which PEFT finds exactly these layers.

    They are last names, or full names if another module has the same last name. PEFT itself does not adapt modules that
    are trained in full.
    """
    wanted = set(layers)
    names = (name for name, _ in model.named_modules() if name not in wanted and not _within(name, in_full))
    others = {name.rpartition(".")[2] for name in names}
    return sorted({name if (last := name.rpartition(".")[2]) in others else last for name in layers})


def _check_targets(model: nn.Module, targets: list[str], excluded: set[str], possible: list[str]) -> None:
    """Raise InvalidError if one of the user's names matches no layer, or also a layer that is not linear."""
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
    """Return whether PEFT considers the layer as named by the target."""
    return name == target or name.endswith(f".{target}")
