"""Records the newest attempt of a run, so that an outdated attempt ends, for example on a node that was cut off.

A file in the run's folder holds the attempt's number. It only saves work: the rule that no two attempts write to the
same path does not depend on it.
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
    """Record that this attempt has begun. Raises SupersededError if a newer attempt has begun, or OSError."""
    refuse_outdated(config, paths)
    folder = paths.run(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CLAIM_FILE, f"{config.attempt}\n")


def refuse_outdated(config: RunConfig, paths: Paths) -> None:
    """Raise SupersededError if a newer attempt has begun."""
    newest = _claimed(paths.run(config))
    if newest > config.attempt:
        raise SupersededError(f"attempt {newest} of the run has begun; attempt {config.attempt} makes way")


def is_outdated(config: RunConfig, paths: Paths) -> bool:
    """Return whether a newer attempt has begun."""
    return _claimed(paths.run(config)) > config.attempt


def _claimed(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / CLAIM_FILE).read_text())
    return 0
