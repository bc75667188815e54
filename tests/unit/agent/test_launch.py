"""torchrun's command line and environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.agent.pod import run_config

from finetune_trainer import launch


def test_torchrun_gets_a_static_rendezvous_and_the_pods_place_in_it() -> None:
    config = run_config(nodes=4, processes_per_node=8)
    command = launch.command(
        ("torchrun",), config, 2, ("rank-0.svc", 29500), 295, Path("/scratch/output"), "some.module"
    )
    end = command.index("--no-python")
    assert dict(zip(command[1:end:2], command[2:end:2], strict=True)) == {
        "--nnodes": "4",
        "--node-rank": "2",
        "--nproc-per-node": "8",
        "--rdzv-backend": "static",
        "--rdzv-conf": "timeout=86400",
        "--master-addr": "rank-0.svc",
        "--master-port": "29500",
        "--max-restarts": "0",
        "--shutdown-timeout": "295",
    }
    assert command[-2:] == ["some.module", "/scratch/output"]


@pytest.mark.parametrize(("cpus", "processes", "threads"), [(8.0, 2, "4"), (7.9, 2, "3"), (0.5, 1, "1"), (4.0, 8, "1")])
def test_the_cpus_are_shared_by_the_ranks(cpus: float, processes: int, threads: str) -> None:
    variables = launch.environment({}, run_config(processes_per_node=processes), cpus)
    assert variables["OMP_NUM_THREADS"] == threads


def test_what_the_user_has_set_stays() -> None:
    given = {"OMP_NUM_THREADS": "3", "TOKENIZERS_PARALLELISM": "true", "OWN": "x"}
    variables = launch.environment(given, run_config(), 8)
    assert variables == given | {"HF_HUB_DISABLE_TELEMETRY": "1", "DS_ACCELERATOR": "cpu"}


def test_only_cpu_training_names_deepspeeds_accelerator() -> None:
    config = run_config()
    on_gpus = config.model_copy(update={"world": config.world.model_copy(update={"device": "cuda"})})
    assert "DS_ACCELERATOR" not in launch.environment({}, on_gpus, 8)
