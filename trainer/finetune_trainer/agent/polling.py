"""A thread of the agent that polls the ranks while they run, and ends them if they hang.

It counts polls and not seconds, because an agent that was itself frozen, for example while a laptop slept, must not
blame its ranks for that time.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

POLLS = 15
"""The number of polls without a change after which a rank hangs."""


class Polling(ABC):
    """A context manager in which a thread polls until the block ends or `poll` returns False."""

    def __init__(self, name: str, patience: float) -> None:
        """Prepare the thread. `patience` is the number of seconds in which it polls `POLLS` times."""
        self._patience = patience
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def poll(self) -> bool:
        """Poll once; if a rank hangs, end it. Return whether to go on polling."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the thread and wait for it: the exit files that it may write are read after the ranks' end."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._patience / POLLS) and self.poll():
            pass
