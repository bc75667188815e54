"""Requests to a training, checked once a step: to stop, to save, or to end because a newer attempt has begun.

Rank 0 decides on what concerns the run's clock and folder, and every rank on its own pod. The step's collective
combines these decisions.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.pod.paths import Paths
from finetune_trainer.ranks.claim import is_outdated

SECONDS_BETWEEN_LOOKS = 2.0
"""Seconds between two reads of a file on a volume."""


@dataclass(frozen=True)
class Asked:
    """The requests that one rank observed, or that any rank observed."""

    stop: bool
    save: bool
    make_way: bool


class Requests:
    """The requests as this rank observes them."""

    def __init__(self, config: RunConfig, paths: Paths, rank: int) -> None:
        self._config = config
        self._paths = paths
        self._is_first = rank == 0
        self._stop_file = paths.scratch / contract.STOP_FILE
        self._request_file = paths.scratch / contract.CHECKPOINT_REQUEST_FILE
        self._last_save = self._last_look = time.monotonic()
        self._is_outdated = False
        self.answered = ""
        """The request that the newest checkpoint answers."""

    def now(self) -> Asked:
        """Return the requests that this rank observes now."""
        stop = self._stop_file.exists()
        if not self._is_first:
            return Asked(stop, save=False, make_way=False)
        now = time.monotonic()
        if now - self._last_look >= SECONDS_BETWEEN_LOOKS:
            self._last_look = now
            self._is_outdated = is_outdated(self._config, self._paths)
        due = now - self._last_save >= self._config.checkpoint.every_seconds
        return Asked(stop, due or self._requested() != self.answered, self._is_outdated)

    def saved(self) -> None:
        """Record that a checkpoint was written or attempted, which answers all requests before it."""
        self._last_save = time.monotonic()
        self.answered = self._requested()

    def _requested(self) -> str:
        with contextlib.suppress(OSError):
            return self._request_file.read_text(encoding="utf-8")
        return self.answered
