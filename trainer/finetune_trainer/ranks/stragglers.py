"""Measures how long each rank works in a step without waiting for others, which shows a slow node.

The loading of the rows and the forward pass are measured, because no rank waits for another in them. Under ZeRO-3 a
forward pass gathers shards and waits, so only the loading is measured. On GPUs the forward pass is measured by events
on the stream.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from finetune_trainer.contract import RunConfig
from finetune_trainer.ranks.distributed import Ranks

STEPS_BETWEEN_LOOKS = 20
SLOW = 1.5
"""The multiple of the median rank's time from which a rank counts as slow."""
LEAST_SECONDS = 0.05
"""The minimum excess in seconds over the median rank's time in STEPS_BETWEEN_LOOKS steps together; less is noise."""


class OwnTime:
    """The time that this rank has worked by itself since `of_ranks` was last called."""

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self._ranks = ranks
        self._forward_waits = config.zero_stage == 3
        self._on_gpu = config.world.device == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Measure the making of a batch."""
        began = time.monotonic()
        yield
        self._seconds += time.monotonic() - began

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Measure a forward pass."""
        if self._forward_waits:
            yield
        elif self._on_gpu:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            with self.loading():
                yield

    def of_ranks(self) -> list[float]:
        """Return this rank's seconds at its place among zeros, to be summed over all ranks, and start again at 0.

        The device must have finished the work.
        """
        seconds = self._seconds + sum(begin.elapsed_time(end) / 1000 for begin, end in self._events)
        self._seconds, self._events = 0.0, []
        return [seconds if rank == self._ranks.rank else 0.0 for rank in range(self._ranks.world)]


def straggler(own_seconds: Sequence[float]) -> tuple[int, float] | None:
    """Return the slowest rank, and its time as a multiple of the median rank's, or None if no rank is slow."""
    if len(own_seconds) < 2:
        return None
    longest = max(own_seconds)
    # The ordinary median of two ranks would be half the slow rank's own time.
    median = statistics.median_low(own_seconds)
    if longest <= max(SLOW * median, median + LEAST_SECONDS):
        return None
    return list(own_seconds).index(longest), longest / max(median, 1e-9)
