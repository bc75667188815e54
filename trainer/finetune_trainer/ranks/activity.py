"""Records what this rank is doing and when it last made progress, for the watch."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetune_trainer.contract import Phase

RECENT_STEPS = 20


@dataclass(frozen=True)
class Moment:
    """The state of a rank at one time."""

    phase: Phase
    ticks: int
    """How often the rank has made progress: equally often on every rank at the same point of the training."""
    since: float
    """When the rank last made progress, in monotonic seconds."""
    steps: int
    """The number of optimizer steps done in this attempt."""
    median_step: float
    """The median duration of the recent steps in seconds; 0 before the second step."""
    waits: bool
    """Whether the rank waits for another one that works alone."""


@dataclass
class Activity:
    """The activity of one rank. Its methods may be called from two threads."""

    _phase: Phase = Phase.INIT
    _ticks: int = 0
    _since: float = field(default_factory=time.monotonic)
    _step_began: float | None = None
    _steps: int = 0
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _waits: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, phase: Phase) -> None:
        """Begin another phase. A step that it interrupts is not measured."""
        with self._lock:
            self._phase = phase
            self._step_began = None
            self._get_on()

    def tick(self) -> None:
        """Record progress: a micro-batch, a batch of an evaluation, or a saved parameter."""
        with self._lock:
            self._get_on()

    def step(self) -> None:
        """Record the end of an optimizer step."""
        with self._lock:
            now = time.monotonic()
            if self._step_began is not None:
                self._seconds.append(now - self._step_began)
            self._step_began = now
            self._steps += 1
            self._get_on()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark this rank as waiting for another one, for however long that takes."""
        with self._lock:
            self._waits = True
        try:
            yield
        finally:
            with self._lock:
                self._waits = False
                self._since = time.monotonic()

    def look(self) -> Moment:
        """Return the current state."""
        with self._lock:
            median = statistics.median(self._seconds) if self._seconds else 0.0
            return Moment(self._phase, self._ticks, self._since, self._steps, median, self._waits)

    def _get_on(self) -> None:
        self._ticks += 1
        self._since = time.monotonic()
