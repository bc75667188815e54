"""The training methods, for the API's rules and the operator. This module must not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class MethodEntry:
    """The properties of a method."""

    learning_rate: float
    """The default learning rate."""
    has_adapter: bool
    """Whether the method trains an adapter beside the model, which has a rank and can be merged."""


METHODS: Mapping[str, MethodEntry] = MappingProxyType(
    {
        "Full": MethodEntry(learning_rate=2e-5, has_adapter=False),
        "LoRA": MethodEntry(learning_rate=2e-4, has_adapter=True),
    }
)
