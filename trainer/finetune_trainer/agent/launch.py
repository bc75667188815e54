"""How a rank is started: its command line and its environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.contract import RunConfig

RANK_MODULE = "finetune_trainer.rank"
STORE_MODULE = "finetune_trainer.ranks.rendezvous"

NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",  # what others read whom an image built from ours may add
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # versions of libraries, and of what calls them, with every request to the hub
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets: a request that only counts
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers: asks a service to convert a repository's weights
}
"""Switches of all that the libraries would tell somebody else. Nothing else in them is a switch: torch, DeepSpeed and
PEFT send nothing, and OpenTelemetry in Arrow is off unless asked for."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a rank or of the store. With faulthandler, which Python enables before it imports anything, a
    process that hangs in its start answers SIGABRT with its stack."""
    return [sys.executable, "-u", "-X", "faulthandler", "-m", module, *arguments]


def environment(base: Mapping[str, str], config: RunConfig, cpus: float) -> dict[str, str]:
    """What all ranks see; where the user's pod template has set a variable of these, it stays."""
    variables = dict(base)
    threads = max(1, int(cpus // config.world.processes_per_node))
    variables.setdefault("OMP_NUM_THREADS", str(threads))
    variables.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in NO_TELEMETRY.items():
        variables.setdefault(name, value)
    if config.world.device == "cpu":
        variables["DS_ACCELERATOR"] = "cpu"
    return variables


def place(config: RunConfig, index: int, local_rank: int, rendezvous: tuple[str, int], modules: Path) -> dict[str, str]:
    """Which of the ranks it is, and where they meet, by the names that torchrun has made the custom.

    Code that a model brings is copied to `modules`, from where it is imported: a folder of each rank's own, for the
    copy is no atomic one, and none that another run has written to.
    """
    local = config.world.processes_per_node
    host, port = rendezvous
    return {
        "RANK": str(index * local + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(config.world.size),
        "LOCAL_WORLD_SIZE": str(local),
        "GROUP_RANK": str(index),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        # Torch's rank 0 keeps the store itself, unless this says that somebody does.
        "TORCHELASTIC_USE_AGENT_STORE": str(needs_store(config)),
        "HF_MODULES_CACHE": str(modules),
    }


def needs_store(config: RunConfig) -> bool:
    """Whether there is anybody to meet."""
    return config.world.size > 1
