"""The command line and the environment with which a rank is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.contract import RunConfig

RANK_MODULE = "finetune_trainer.rank"
STORE_MODULE = "finetune_trainer.ranks.rendezvous"

NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",  # read by libraries that an image built from ours may add
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # versions of the libraries and their callers, in every request to the hub
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets: a request that only counts downloads
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers: a request to a service that converts a repository's weights
}
"""The variables that switch off everything which the libraries would send to third parties. Other libraries need none:
torch, DeepSpeed and PEFT send nothing, and OpenTelemetry in Arrow is off by default."""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a rank or of the store.

    Python enables faulthandler before it imports anything, so that a process that hangs while it starts prints its
    stack on SIGABRT.
    """
    return [sys.executable, "-u", "-X", "faulthandler", "-m", module, *arguments]


def environment(base: Mapping[str, str], config: RunConfig, cpus: float) -> dict[str, str]:
    """Return the environment that all ranks share. Variables that the user's pod template sets are kept.

    DS_ACCELERATOR is the exception: it always matches the run's device when that is the CPU.
    """
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
    """Return the variables that tell a rank its number and where the ranks meet, named as torchrun names them.

    Code that comes with a model is copied to `modules` and imported from there. The folder belongs to one rank, because
    the copy is not atomic, and no other run has written to it.
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
        # Unless this is True, torch creates the store in rank 0.
        "TORCHELASTIC_USE_AGENT_STORE": str(needs_store(config)),
        "HF_MODULES_CACHE": str(modules),
    }


def needs_store(config: RunConfig) -> bool:
    """Return whether the ranks need a store to meet: a single rank does not."""
    return config.world.size > 1
