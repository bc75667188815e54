"""Reuses what a base classifier has learned about the data's classes, matched by the names of the labels.

The head of a classifier has a row for each label. Rows are matched by name and not by index: if the data has the same
labels as the base model, they keep the base model's order, and the model answers as before. If it has some of them,
their rows are copied, and the other rows are initialised randomly. Names match regardless of case, unless that would be
ambiguous.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig


def labels_of(model: PreTrainedConfig) -> tuple[str, ...]:
    """Return the names of the base model's labels by their row; empty if they are incomplete or not unique."""
    names = {int(row): str(name) for row, name in (model.id2label or {}).items()}
    ordered = tuple(names.get(row, "") for row in range(len(names)))
    return ordered if "" not in ordered and len(set(ordered)) == len(ordered) else ()


def rows_of(labels: Sequence[str], base: Sequence[str]) -> dict[str, int]:
    """Return the base model's row for each of the data's labels that the base model has."""
    exact = {name: row for row, name in enumerate(base)}
    folded = _unambiguous(base)
    ours = _unambiguous(labels)
    found = {}
    for label in labels:
        if label in exact:
            found[label] = exact[label]
        elif ours.get(_folded(label)) is not None and (name := folded.get(_folded(label))) is not None:
            found[label] = exact[name]
    return found if len(set(found.values())) == len(found) else {k: v for k, v in found.items() if k in exact}


def are_generic(names: Sequence[str]) -> bool:
    """Return whether these are the names that transformers gives to labels without names."""
    return all(name == f"LABEL_{row}" for row, name in enumerate(names))


def in_base_order(labels: Sequence[str], base: Sequence[str]) -> tuple[str, ...]:
    """Return the data's labels in the base model's order if both have the same labels, else unchanged."""
    rows = rows_of(labels, base)
    if len(labels) != len(base) or len(rows) != len(base):
        return tuple(labels)
    return tuple(sorted(labels, key=rows.__getitem__))


def set_labels(model: PreTrainedConfig, labels: Sequence[str]) -> None:
    """Set the labels of a configuration.

    The number of labels follows from them, except in a few configurations (PVT) that have a separate field for it.
    """
    model.id2label = dict(enumerate(labels))
    model.label2id = {label: row for row, label in enumerate(labels)}
    model.num_labels = len(labels)


def head_parameters(auto_class: Any, config: PreTrainedConfig, remote_code: bool) -> set[str]:
    """Return the names of the parameters that have a row for each label.

    They are those whose first dimension grows by one with another label.
    """
    larger = copy.deepcopy(config)
    set_labels(larger, [str(row) for row in range(len(config.id2label or {}) + 1)])
    with torch.device("meta"):
        shapes = [
            {name: parameter.shape for name, parameter in _made(auto_class, c, remote_code).named_parameters()}
            for c in (config, larger)
        ]
    return {name for name, shape in shapes[0].items() if len(shape) and shapes[1][name][0] == shape[0] + 1}


@torch.no_grad()
def carry_over(model: nn.Module, base: nn.Module, heads: set[str], rows: Mapping[int, int]) -> None:
    """Write the head's rows: copies of the base model's rows where `rows` maps a row to one of them, else new rows.

    New rows are initialised as transformers initialises a head: normally distributed weights, and zero biases.
    """
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    theirs = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in heads:
            continue
        nn.init.zeros_(parameter) if parameter.dim() == 1 else nn.init.normal_(parameter, std=deviation)
        for row, source in rows.items():
            parameter[row] = theirs[name][source]


def _made(auto_class: Any, config: PreTrainedConfig, remote_code: bool) -> nn.Module:
    model: nn.Module = auto_class.from_config(config, trust_remote_code=remote_code)
    return model


def _folded(name: str) -> str:
    return name.strip().casefold()


def _unambiguous(names: Sequence[str]) -> dict[str, str | None]:
    """Map each folded name to the name, or to None if two names share it."""
    found: dict[str, str | None] = {}
    for name in names:
        found[_folded(name)] = None if _folded(name) in found else name
    return found
