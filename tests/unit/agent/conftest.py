from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.agent.pod import Pod, run_config

from finetune_trainer.contract import RunConfig

MakePod = Callable[..., Pod]


@pytest.fixture
def config() -> RunConfig:
    return run_config()


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[MakePod]:
    """Return a function that makes pods of a job with this many nodes and processes, and end them after the test."""
    pods: list[Pod] = []

    def make(rank_source: str, nodes: int = 1, processes_per_node: int = 1, **arguments: Any) -> Pod:
        pods.append(Pod(tmp_path, rank_source, run_config(nodes, processes_per_node), **arguments))
        return pods[-1]

    yield make
    for pod in pods:
        pod.kill()
