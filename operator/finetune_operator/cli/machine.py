"""Prepares a local run: the operator's settings, folders for claims, and checks of files, GPUs and the hub's token.

A run takes some seconds until its ranks read anything. So what is missing is reported before the start, with the paths
that the user knows.
"""

from __future__ import annotations

import difflib
import glob
import os
import subprocess
import sys
from pathlib import Path

from finetune_operator.api.v1alpha1 import FineTuneJobSpec
from finetune_operator.cli.errors import UsageError
from finetune_operator.constants import DEFAULT_CLAIM, HUB_TOKEN_KEY
from finetune_operator.core.run.resolve import storage_claim, uris_of
from finetune_operator.core.settings import Settings
from finetune_operator.local.ports import free_ports

Folders = dict[str, Path]
"""The folders that stand for claims, by the names of the claims."""

INTERVAL = 0.5
"""Seconds between two observations of an attempt; short, because its pods run on this machine."""
GRACE = 20
"""Seconds that the pods have to end after Ctrl-C: enough for most steps, and no longer than a user would wait."""
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


def operator_settings() -> Settings:
    """Return the settings of an operator whose pods are processes of this machine, with free ports."""
    agent_port, rendezvous_port = free_ports(2)
    return Settings(
        image="local",
        local=True,
        agent_port=agent_port,
        rendezvous_port=rendezvous_port,
        starting_interval=INTERVAL,
        progress_interval=INTERVAL,
        settle=GRACE,
        grace=GRACE,
    )


def workspace_folder(folder: str) -> Path:
    """Return the path of the folder that --workspace names, which may not exist yet.

    Raises UsageError if the path is not a folder.
    """
    path = Path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise UsageError(f"--workspace: {folder} is a file; give a folder")
    return path


def make_writable(path: Path) -> None:
    """Create the folder with its parents, unless it exists.

    Raises UsageError if it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--workspace: {path} cannot be made ({error.strerror}); give a folder that you can write"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"--workspace: {path} cannot be written; give a folder that you can write")


def claim_folders(pairs: list[str]) -> Folders:
    """Return the folders that the NAME=DIR arguments of --claim name.

    Raises UsageError.
    """
    claims = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--claim: '{pair}' is not NAME=DIR; write for example data=/srv/data")
        if not Path(folder).is_dir():
            raise UsageError(f"--claim: {folder} is not a folder; give one that exists, as in {name}=/srv/{name}")
        claims[name] = Path(folder).absolute()
    return claims


def faults(spec: FineTuneJobSpec, folders: Folders) -> list[str]:
    """Return a message for each thing that the job needs and this machine lacks."""
    found = [fault for field, uri in uris_of(spec).items() if (fault := _unreadable(field, uri, spec, folders))]
    if spec.model.secret_name and not os.environ.get(HUB_TOKEN_KEY):
        found.append(
            f"spec.model.secretName: on this machine the token of '{spec.model.secret_name}' is the variable "
            f"{HUB_TOKEN_KEY}, which is not set; export it or remove the field"
        )
    if spec.suspend:
        found.append("spec.suspend: is true, and on this machine nobody would resume the job; set it to false")
    return found + _too_few_gpus(spec)


def _unreadable(field: str, uri: str, spec: FineTuneJobSpec, folders: Folders) -> str | None:
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":
        return None
    path = Path(rest)
    if scheme == "workspace":
        path = folders[storage_claim(spec, DEFAULT_CLAIM)] / rest
    if scheme == "pvc":
        claim, _, below = rest.partition("/")
        if claim not in folders:
            return f"spec.{field}: '{uri}' has no folder on this machine; add --claim {claim}=DIR"
        path = folders[claim] / below
    if path.exists() or any(path.parent.glob(glob.escape(path.name).replace("[*]", "*"))):
        return None
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    remedy = f"is it {near[0]}?" if near else "put it there or correct the URI"
    return f"spec.{field}: '{uri}' is not there ({path} does not exist); {remedy}"


def _too_few_gpus(spec: FineTuneJobSpec) -> list[str]:
    resources = spec.resources
    if not resources.gpus_per_node:
        return []
    if resources.nodes > 1:
        return [
            f"spec.resources.nodes: {resources.nodes} nodes with GPUs cannot be on one machine; "
            "set nodes: 1, or gpusPerNode: 0 to train on CPUs"
        ]
    counted = subprocess.run([sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True)
    here = int(counted.stdout) if counted.returncode == 0 else 0
    if here >= resources.gpus_per_node:
        return []
    return [
        f"spec.resources.gpusPerNode: {resources.gpus_per_node} is more than the {here} GPUs of this machine; "
        "set gpusPerNode: 0 to train on its CPUs, or submit the job to a cluster"
    ]
