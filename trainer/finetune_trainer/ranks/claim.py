"""Which attempt of a run is the newest to have begun: an outdated one leaves, on a node that was cut off, say.

A file in the run's folder holds the attempt's number. It spares work; that no two attempts write one path does not rest
on it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import SupersededError
from finetune_trainer.pod.paths import Paths
from finetune_trainer.pod.scratch import write_atomically

CLAIM_FILE = "attempt"


def claim(config: RunConfig, paths: Paths) -> None:
    """Begin. Raises SupersededError when a newer attempt has begun; OSError."""
    refuse_outdated(config, paths)
    folder = paths.run(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CLAIM_FILE, f"{config.attempt}\n")


def refuse_outdated(config: RunConfig, paths: Paths) -> None:
    """Raises SupersededError."""
    newest = _claimed(paths.run(config))
    if newest > config.attempt:
        raise SupersededError(f"attempt {newest} of the run has begun; attempt {config.attempt} makes way")


def is_outdated(config: RunConfig, paths: Paths) -> bool:
    """Whether a newer attempt has begun."""
    return _claimed(paths.run(config)) > config.attempt


def _claimed(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / CLAIM_FILE).read_text())
    return 0
