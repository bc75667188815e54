"""How torchrun is started: its command line and its environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.contract import RunConfig

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
RANK_MODULE = "finetune_trainer.rank"

# The shell opens the rank's pipes and then becomes the rank: signals reach Python, not the shell.
# Code that a model brings is copied to a folder from which it is imported: one for each rank, for the copy is no
# atomic one, and none that another run has written to.
RANK_SHELL = (
    'export HF_MODULES_CACHE="$2/$LOCAL_RANK.modules"; '
    'exec "$0" -u -m "$1" >"$2/$LOCAL_RANK.stdout" 2>"$2/$LOCAL_RANK.stderr"'
)

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

SHUTDOWN_SECONDS = 3
"""What torchrun gives its other ranks between SIGTERM, at which a rank ends at once, and SIGKILL, for one that is
frozen; its default is 30 s."""
RENDEZVOUS_SECONDS = 24 * 3600
"""How long torchrun waits for the other pods; its default is 600 s. How long is too long is the operator's to say."""


def command(
    launcher: tuple[str, ...],
    config: RunConfig,
    index: int,
    rendezvous: tuple[str, int],
    output: Path,
    module: str,
) -> list[str]:
    """torchrun's arguments for the pod `index`."""
    host, port = rendezvous
    return [
        *launcher,
        *("--nnodes", str(config.world.nodes)),
        *("--node-rank", str(index)),
        *("--nproc-per-node", str(config.world.processes_per_node)),
        *("--rdzv-backend", "static"),
        *("--rdzv-conf", f"timeout={RENDEZVOUS_SECONDS}"),
        *("--master-addr", host),
        *("--master-port", str(port)),
        *("--max-restarts", "0"),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        "--no-python",
        *("/bin/sh", "-c", RANK_SHELL, sys.executable, module, str(output)),
    ]


def environment(base: Mapping[str, str], config: RunConfig, cpus: float) -> dict[str, str]:
    """What torchrun and the ranks see; where the user's pod template has set a variable of these, it stays."""
    variables = dict(base)
    threads = max(1, int(cpus // config.world.processes_per_node))
    variables.setdefault("OMP_NUM_THREADS", str(threads))
    variables.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in NO_TELEMETRY.items():
        variables.setdefault(name, value)
    if config.world.device == "cpu":
        variables["DS_ACCELERATOR"] = "cpu"
    return variables
