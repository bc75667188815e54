"""What an operator is configured with, as far as decisions depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.constants import DEFAULT_CLAIM


@dataclass(frozen=True)
class Network:
    """What the pods of a job may reach, and who may reach them, besides each other and the DNS."""

    egress: tuple[Mapping[str, Any], ...] = ()
    """Rules of a NetworkPolicy, as they are."""
    operator: Mapping[str, Any] | None = None
    """The operator's pod, as a peer of a NetworkPolicy; None: it runs elsewhere, and anyone may ask the agents."""


@dataclass(frozen=True)
class Settings:
    """Defaults are those of a cluster. Durations are seconds."""

    image: str
    """Of the trainer, for jobs that name none. Frozen in the status when a run starts."""
    claim: str = DEFAULT_CLAIM
    """Of jobs that name none. Frozen as well."""
    network: Network | None = None
    """None: no NetworkPolicy is made."""
    allow_remote_code: bool = False
    allow_pickle_weights: bool = False
    """Whether a model's own code, or weights that are a pickle, may run in the pods."""
    local: bool = False
    """Whether pods are processes on this machine, so that file:/// can be read."""
    agent_port: int = 8471
    rendezvous_port: int = 29500
    starting_interval: float = 2
    """Between two looks at an attempt whose pods run and whose ranks have not all reported."""
    waiting_interval: float = 5
    """Between two looks at an attempt whose pods do not all run."""
    progress_interval: float = 10
    """Between two looks at rank 0's progress, and so between two writes of it."""
    peers_interval: float = 60
    """Between two looks at the other ranks, once all have reported."""
    settle: float = 5
    """How long, after an attempt has failed, the other pods' words are awaited: the one who says why may be last."""
    grace: int = 300
    """Between SIGTERM and SIGKILL, as long as no checkpoint has told how long it takes."""
