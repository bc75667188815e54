"""How an adapter trains the rows of new tokens in a model's embeddings.

PEFT's `trainable_token_indices` trains and saves these rows alone. It writes them into a copy of the embeddings in each
forward pass, so the adapter stays small, and it has the same parameters at every ZeRO stage. Where that copy would not
compute what the model's own layer does (embeddings with a step of their own, an output layer with a bias), the whole
layer is trained and saved instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.errors import InvalidError


@dataclass(frozen=True)
class NewTokens:
    """What is trained of the embeddings."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    """Token ids by the name of the layer whose rows they are; PEFT finds the layers tied to it."""
    in_full: tuple[str, ...] = ()
    """Names of layers that are trained whole."""


def new_tokens(model: PreTrainedModel, tokens: tuple[int, ...]) -> NewTokens:
    """What is trained for these token ids. Raises InvalidError for embeddings that an adapter cannot train."""
    names = {module: name for name, module in model.named_modules()}
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [table] if output is None else [table, output]
    is_tied = output is not None and output.weight is table.weight
    separate = layers[:1] if is_tied else layers
    if any(not _is_computed_by_peft(layer) and len(_sharing(model, layer.weight)) > 1 for layer in layers):
        raise cannot_train(model)
    return NewTokens(
        rows={names[layer]: list(tokens) for layer in separate if _is_computed_by_peft(layer)},
        in_full=tuple(names[layer] for layer in separate if not _is_computed_by_peft(layer)),
    )


def check_tied_layers(model: PreTrainedModel) -> None:
    """After PEFT has wrapped the embeddings: every layer that shares their weights must use the trained rows too.

    Raises InvalidError where PEFT has not seen that two layers are tied."""
    table = model.get_input_embeddings()
    if not isinstance(table, TrainableTokensWrapper):
        return
    shared = table.token_adapter.base_layer.weight
    wrapped = {id(m.token_adapter.base_layer) for m in model.modules() if isinstance(m, TrainableTokensWrapper)}
    if any(id(layer) not in wrapped for layer in _sharing(model, shared)):
        raise cannot_train(model)


def cannot_train(model: PreTrainedModel) -> InvalidError:
    """One sentence for people."""
    return InvalidError(
        "method.type: the tokenizer has tokens that the model has not learned, and LoRA cannot train the embeddings of "
        f"a model of type {model.config.model_type} for them; use Full"
    )


def _sharing(model: nn.Module, weight: Any) -> list[nn.Module]:
    """The layers that have this parameter as their weight."""
    return [module for module in model.modules() if module._parameters.get("weight") is weight]


def _is_computed_by_peft(layer: nn.Module) -> bool:
    """Whether PEFT, which looks rows up or multiplies by them itself, does all that the layer does."""
    if isinstance(layer, nn.Embedding):
        return type(layer).forward is nn.Embedding.forward or hasattr(layer, "embed_scale")
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and layer.bias is None
