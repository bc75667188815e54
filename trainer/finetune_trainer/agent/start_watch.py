"""Ends ranks that hang while they start, and reports what their processes were doing.

A rank leaves two empty files in the scratch folder: one as soon as the trainer's code runs, before torch is imported,
and one when all libraries are imported. Before the first file, a rank gets a fixed time. Between the two files, it is
left alone as long as its process computes or reads, because imports from a cold disk can take minutes. After the second
file it is not watched here: the operator and the ranks themselves limit how long ranks may wait for each other, for a
download or for a large model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable

from finetune_trainer.agent import process_state
from finetune_trainer.agent.polling import POLLS, Polling
from finetune_trainer.agent.rank_output import RankOutput
from finetune_trainer.agent.rank_processes import RankProcesses
from finetune_trainer.contract import ExitCode, RankExit
from finetune_trainer.pod.scratch import Scratch

logger = logging.getLogger("agent")

START_SECONDS = 120.0
"""Seconds that a rank may take to run the trainer's code, and that its process may be idle while it imports."""
STACK_SECONDS = 2.0
"""Seconds that the watch waits for the Python stacks of the processes that it ends."""

_Seen = tuple[float, int, int] | None
"""What a process had done at the last poll; None before the trainer's code runs."""


class StartWatch(Polling):
    """A context manager that watches the ranks of a pod until all have imported their libraries."""

    def __init__(
        self, ranks: Iterable[int], scratch: Scratch, processes: RankProcesses, output: RankOutput, seconds: float
    ) -> None:
        """Prepare the watch. `seconds` is the time that a rank gets; it is `START_SECONDS` except in tests."""
        super().__init__("start-watch", seconds)
        self._scratch = scratch
        self._processes = processes
        self._output = output
        self._seen: dict[int, _Seen] = dict.fromkeys(ranks)
        self._unchanged = dict.fromkeys(self._seen, 0)

    def poll(self) -> bool:
        """Poll once; end the ranks if some hang. Return whether any rank is still importing its libraries."""
        if hanging := self.look():
            self._end(hanging)
        return bool(self._seen) and not hanging

    def look(self) -> dict[int, int]:
        """Poll once and return the process ids of the ranks that hang, by rank."""
        living = self._processes.living()
        for rank in tuple(self._seen):
            if rank not in living or self._scratch.has_imported(rank):
                del self._seen[rank], self._unchanged[rank]
                continue
            seen = process_state.activity(living[rank]) if self._scratch.has_started(rank) else None
            self._unchanged[rank] = self._unchanged[rank] + 1 if seen == self._seen[rank] else 0
            self._seen[rank] = seen
        return {rank: living[rank] for rank, looks in self._unchanged.items() if looks >= POLLS}

    def _end(self, hanging: dict[int, int]) -> None:
        """Write the exit files of the hanging ranks on their behalf, and end all processes of the pod."""
        states = {rank: process_state.describe(pid) for rank, pid in hanging.items()}
        details = {rank: process_state.describe_all(pid) for rank, pid in hanging.items()}
        # The ranks start with Python's faulthandler, which prints the stacks of all threads on this signal.
        for pid in hanging.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        _wait_until(lambda: not hanging.keys() & self._processes.living().keys())
        for rank, state in states.items():
            sentence = f"{self._fault(rank)}: {state}{self._place(rank, details[rank])}."
            logger.error("%s", sentence)
            self._scratch.add_exit(RankExit(rank=rank, exit_code=ExitCode.HUNG, error=sentence, error_time=time.time()))
        self._processes.kill()

    def _fault(self, rank: int) -> str:
        if self._seen[rank] is None:
            return f"Rank {rank} did not begin to run the trainer's code within {self._patience:.0f} s of its start"
        return f"Rank {rank} neither computed nor read anything for {self._patience:.0f} s while it imported libraries"

    def _place(self, rank: int, details: list[str]) -> str:
        """Add the details to the rank's output and return where its Python code was, if it has printed a stack."""
        for line in details:
            self._output.add(rank, line)
        # The rank's own output comes through the same pipe before these lines.
        _wait_until(lambda: bool(details) and details[-1] in self._output.lines(rank))
        place = process_state.innermost_line(self._output.lines(rank))
        return f"; Python was at {place}" if place else ""


def _wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds, or after `STACK_SECONDS`."""
    deadline = time.monotonic() + STACK_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
