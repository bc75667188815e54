"""Ends ranks that hang while they start, and reports what their processes were doing.

A rank leaves two empty files in the scratch folder: one as soon as the trainer's code runs, before torch is imported,
and one when all libraries are imported. Before the first file, a rank gets a fixed time. Between the two files, it is
left alone as long as its process computes or reads, because imports from a cold disk can take minutes. After the second
file it is not watched here: the operator and the ranks themselves limit how long ranks may wait for each other, for a
download or for a large model.

The watch counts its polls and not seconds, because an agent that was itself frozen, for example while a laptop slept,
must not blame its ranks for that time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from finetune_trainer.agent import process_state
from finetune_trainer.agent.rank_output import RankOutput
from finetune_trainer.agent.rank_processes import RankProcesses
from finetune_trainer.contract import ExitCode, RankExit, rank_exit_file
from finetune_trainer.pod.scratch import Scratch

logger = logging.getLogger("agent")

START_SECONDS = 120.0
"""Seconds that a rank may take to run the trainer's code, and that its process may be idle while it imports."""
LOOKS = 15
"""The number of polls in that time."""
STACK_SECONDS = 2.0
"""Seconds that the watch waits for the Python stacks of the processes that it ends."""

_Seen = tuple[float, int, int] | None
"""What a process had done at the last poll; None before the trainer's code runs."""


class StartWatch:
    """A context manager that watches the ranks of a pod until all have imported their libraries."""

    def __init__(
        self, ranks: Iterable[int], scratch: Scratch, processes: RankProcesses, output: RankOutput, seconds: float
    ) -> None:
        """Prepare the watch. `seconds` is the time that a rank gets; it is `START_SECONDS` except in tests."""
        self._scratch = scratch
        self._processes = processes
        self._output = output
        self._seconds = seconds
        self._seen: dict[int, _Seen] = dict.fromkeys(ranks)
        self._unchanged = dict.fromkeys(self._seen, 0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="start-watch", daemon=True)

    def __enter__(self) -> StartWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the watch and wait for its thread: the files that it may write are read after the ranks' end."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while self._seen and not self._closing.wait(self._seconds / LOOKS):
            if hanging := self.look():
                self._end(hanging)
                return

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
        return {rank: living[rank] for rank, looks in self._unchanged.items() if looks >= LOOKS}

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
            left = RankExit(rank=rank, exit_code=ExitCode.HUNG, error=sentence, error_time=time.time())
            # The exit file of a rank that has already reported why it ends stays.
            with contextlib.suppress(OSError), (self._scratch.folder / rank_exit_file(rank)).open("x") as file:
                file.write(left.to_json())
        self._processes.kill()

    def _fault(self, rank: int) -> str:
        if self._seen[rank] is None:
            return f"Rank {rank} did not begin to run the trainer's code within {self._seconds:.0f} s of its start"
        return f"Rank {rank} neither computed nor read anything for {self._seconds:.0f} s while it imported libraries"

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
