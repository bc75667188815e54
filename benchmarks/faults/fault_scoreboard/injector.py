"""Injects a fault into the pods from outside, once, when every rank has done enough steps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from fault_scoreboard.faults import FAULT_STEP, INSIDE, WORLD, Act
from fault_scoreboard.pods import Pod
from fault_scoreboard.side import Job, Side
from fault_scoreboard.steps import RankSteps, fewest, read_steps

VICTIM = 1
"""The rank and the pod that the fault hits."""
FROM_THE_START = frozenset({Act.SPOIL_ROW, Act.START_LATE})
"""The actions that happen before any step."""


class Injector:
    """Injects the fault of one job."""

    def __init__(self, side: Side, job: Job) -> None:
        self._side = side
        self._job = job

    def begin_with_the_job(self) -> None:
        """Record the beginning of a fault that exists from the start."""
        if self._job.fault and self._job.fault.act in FROM_THE_START:
            self._note()

    def look(self, pods: Sequence[Pod]) -> None:
        """Inject the fault if it is due. `pods` are those of the first attempt."""
        fault = self._job.fault
        if fault is None or fault.act in INSIDE or self._job.begun.exists():
            return
        steps = read_steps(self._job.steps)
        if fewest(steps, 1, WORLD) >= FAULT_STEP and (fault.act is not Act.TRUNCATE or self._newest()):
            self._note()
            self._act(fault.act, pods, steps)

    def after_first_attempt(self) -> None:
        """Truncate the newest checkpoint, which must wait until no pod writes any longer."""
        if self._job.fault and self._job.fault.act is Act.TRUNCATE and self._job.begun.exists():
            newest = self._newest()
            assert newest is not None
            largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
            os.truncate(largest, largest.stat().st_size // 2)

    def _newest(self) -> Path | None:
        return next(reversed(self._side.checkpoints(self._job)), None)

    def _note(self) -> None:
        self._job.begun.write_text(f"{time.time():.3f}")

    def _act(self, act: Act, pods: Sequence[Pod], steps: Sequence[RankSteps]) -> None:
        (pid,) = (one.pid for one in steps if (one.attempt, one.rank) == (1, VICTIM))
        match act:
            case Act.KILL_RANK | Act.FREEZE:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if act is Act.KILL_RANK else signal.SIGSTOP)
            case Act.KILL_POD:
                pods[VICTIM].kill()
            case Act.KILL_ALL | Act.TRUNCATE:
                for pod in pods:
                    pod.kill()
            case Act.TERMINATE_ONE:
                pods[VICTIM].terminate()
            case Act.TERMINATE_ALL:
                for pod in pods:
                    pod.terminate()
            case _:
                raise ValueError(f"{act} is not done from outside")
