"""What a LoRA adapter trains: low-rank matrices on linear layers, and in full what the base model had not learned.

What the base model lacked (a head, a pooler, rows of the embeddings for new tokens) has no trained weights that an
adapter could adapt. It is trained and saved with the adapter (`modules_to_save`, `trainable_token_indices`). PEFT's own
choice by task type is never relied on: it would freeze a new pooler and leave it out of the saved adapter, and the
reloaded model would answer differently without a word.
"""

from __future__ import annotations

from peft import LoraConfig
from torch import nn
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
    linears = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    output = model.get_output_embeddings()
    possible = [name for name in linears if not _within(name, in_full) and model.get_submodule(name) is not output]
    layers = [name for name in possible if not _is_left_out(model, name)]
    if not layers:
        raise InvalidError("method.type: LoRA finds no linear layer in the model's body to adapt; use Full")
    if lora.target_modules:
        targets = list(lora.target_modules)
        _check_targets(model, targets, in_full, possible)
    else:
        targets = _shortest_names(model, layers)
    wanted = set(possible if lora.target_modules else layers)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides by it, and takes fractions
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=[
            name
            for name, _ in model.named_modules()
            if name not in wanted and any(_ends(name, target) for target in targets)
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


def _is_left_out(model: nn.Module, name: str) -> bool:
    """Whether a linear layer is none of the defaults: an adapter on it would have no effect or could not be merged, or
    the layer chooses the experts of a mixture, which training alone should not upset."""
    above, _, last = name.rpartition(".")
    parent = model.get_submodule(above)
    is_bypassed = isinstance(parent, nn.MultiheadAttention) or (
        last in BYPASSED_IN_STATE_SPACES and hasattr(parent, "A_log") and hasattr(parent, "D")
    )
    return is_bypassed or is_parametrized(model.get_submodule(name)) or _chooses_experts(model, name)


def _chooses_experts(model: nn.Module, name: str) -> bool:
    """A router, which models call by different names."""
    above, _, last = name.rpartition(".")
    parts = name.split(".")
    around = [type(model.get_submodule(".".join(parts[:length]))).__name__ for length in range(1, len(parts) + 1)]
    return (
        "router" in name
        or any("Router" in kind for kind in around)
        or last.endswith("expert_gate")
        or (last == "gate" and hasattr(model.get_submodule(above), "experts"))
    )


def _shortest_names(model: nn.Module, layers: list[str]) -> list[str]:
    """Names by which PEFT finds these layers and no others: last names, or full ones where a last name is also that of
    another module."""
    last_names = {name.rpartition(".")[2] for name in layers}
    shared = {
        last
        for name, _ in model.named_modules()
        if (last := name.rpartition(".")[2]) in last_names and name not in layers
    }
    return sorted({name if (last := name.rpartition(".")[2]) in shared else last for name in layers})


def _check_targets(model: nn.Module, targets: list[str], in_full: list[str], possible: list[str]) -> None:
    """Raises InvalidError for a name that the user gave and that is no layer's, or not only that of linear layers."""
    output = {name for name, module in model.named_modules() if isinstance(module, LINEAR)} - set(possible)
    for target in targets:
        named = [name for name, _ in model.named_modules() if _ends(name, target) and name not in output]
        named = [name for name in named if not _within(name, in_full)]
        if not named or not set(named) <= set(possible):
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
