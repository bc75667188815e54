"""Determines how an adapter trains the rows of new tokens in a model's embeddings.

PEFT's `trainable_token_indices` trains and saves only these rows. It writes them into a copy of the embeddings in each
forward pass, so the adapter remains small, and has the same parameters at every ZeRO stage. If the copy would not
compute the same as the model's own layer (embeddings with an additional operation, an output layer with a bias), the
whole layer is trained and saved instead.
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
    """The rows and layers of the embeddings that are trained."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    """The token ids for each name of a layer with these rows; PEFT finds the layers that are tied to it."""
    in_full: tuple[str, ...] = ()
    """The names of layers that are trained in full."""


def new_tokens(model: PreTrainedModel, tokens: tuple[int, ...]) -> NewTokens:
    """Return what is trained for these token ids. Raises InvalidError if an adapter cannot train the embeddings."""
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
    """Check that every layer that shares the embeddings uses the trained rows too, after PEFT has wrapped them.

    Raises InvalidError if PEFT has not detected that two layers are tied.
    """
    table = model.get_input_embeddings()
    if not isinstance(table, TrainableTokensWrapper):
        return
    shared = table.token_adapter.base_layer.weight
    wrapped = {id(m.token_adapter.base_layer) for m in model.modules() if isinstance(m, TrainableTokensWrapper)}
    if any(id(layer) not in wrapped for layer in _sharing(model, shared)):
        raise cannot_train(model)


def cannot_train(model: PreTrainedModel) -> InvalidError:
    """Return the error for embeddings that an adapter cannot train."""
    return InvalidError(
        "method.type: the tokenizer has tokens that the model has not learned, and LoRA cannot train the embeddings of "
        f"a model of type {model.config.model_type} for them; use Full"
    )


def _sharing(model: nn.Module, weight: Any) -> list[nn.Module]:
    """Return the layers that have this parameter as their weight."""
    return [module for module in model.modules() if module._parameters.get("weight") is weight]


def _is_computed_by_peft(layer: nn.Module) -> bool:
    """Return whether PEFT's own look-up or multiplication does everything that the layer does."""
    if isinstance(layer, nn.Embedding):
        return type(layer).forward is nn.Embedding.forward or hasattr(layer, "embed_scale")
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and layer.bias is None
