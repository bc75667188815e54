"""The configuration of an operator, as far as decisions depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.constants import DEFAULT_CLAIM


@dataclass(frozen=True)
class Network:
    """The peers that the pods of a job may reach or be reached by, besides each other and the DNS."""

    egress: tuple[Mapping[str, Any], ...] = ()
    """The egress rules of a NetworkPolicy, unchanged."""
    operator: Mapping[str, Any] | None = None
    """The operator's pod as a peer of a NetworkPolicy; None if it runs elsewhere, so anyone may reach the agents."""


@dataclass(frozen=True)
class Settings:
    """The settings of an operator; the defaults are those of a cluster, and durations are in seconds."""

    image: str
    """The trainer's image for jobs that name none; it is recorded in the status when a run starts."""
    claim: str = DEFAULT_CLAIM
    """The claim for jobs that name none; it is recorded in the status when a run starts."""
    network: Network | None = None
    """The network access of pods; None if no NetworkPolicy is created."""
    allow_remote_code: bool = False
    allow_pickle_weights: bool = False
    """Whether pickled weights may be loaded in the pods; `allow_remote_code` is the same for a model's own code."""
    local: bool = False
    """Whether pods are processes on this machine, so that file:/// URIs can be read."""
    agent_port: int = 8471
    rendezvous_port: int = 29500
    starting_interval: float = 2
    """Seconds between two reconciles of an attempt whose pods all run while some ranks have not reported."""
    waiting_interval: float = 5
    """Seconds between two reconciles of an attempt whose pods do not all run."""
    progress_interval: float = 10
    """Seconds between two requests for rank 0's progress, and so between two writes of it."""
    peers_interval: float = 60
    """Seconds between two requests to the other ranks, once all have reported."""
    settle: float = 5
    """Seconds to wait for the other pods' messages after a failure, because the last one may report the cause."""
    grace: int = 300
    """Seconds between SIGTERM and SIGKILL, while no checkpoint has reported how long a save takes."""
