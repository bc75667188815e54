"""The times of the ranks' steps: a file for each rank of each attempt, with a line for every optimizer step.

The files' names are `<attempt>-<rank>-<process id>`. A line is the time at which a step was done, in seconds since the
epoch. `rank_hook` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RankSteps:
    """The steps of one process."""

    attempt: int
    rank: int
    pid: int
    times: tuple[float, ...]


def read_steps(folder: Path) -> list[RankSteps]:
    """Read the steps of each attempt and rank. A line that is still being written is left out."""
    found = []
    for path in folder.glob("*-*-*"):
        attempt, rank, pid = map(int, path.name.split("-"))
        lines = path.read_text().splitlines(keepends=True)
        times = tuple(float(line) for line in lines if line.endswith("\n"))
        found.append(RankSteps(attempt, rank, pid, times))
    return sorted(found, key=lambda steps: (steps.attempt, steps.rank))


def fewest(steps: Sequence[RankSteps], attempt: int, world: int) -> int:
    """Return how many steps every rank of an attempt has done."""
    of_attempt = [len(one.times) for one in steps if one.attempt == attempt]
    return min(of_attempt) if len(of_attempt) == world else 0


def steps_lost(steps: Sequence[RankSteps], needed: int) -> int:
    """Return how many steps rank 0 did beyond the `needed` ones, in all attempts together."""
    return max(0, sum(len(one.times) for one in steps if one.rank == 0) - needed)


def training_again(steps: Sequence[RankSteps], fault_time: float, worlds: Sequence[int]) -> float | None:
    """Return the seconds from the fault until every rank has done a step after it; None if that never happened.

    `worlds` are the numbers of ranks of the attempts. If an attempt began after the fault, only new attempts count:
    ranks that continue for a while before they end are not training again.
    """
    last = len(worlds)
    began_after = [attempt for attempt in range(2, last + 1) if any(t > fault_time for t in _firsts(steps, attempt))]
    for attempt in began_after or [last]:
        firsts = [
            min((t for t in one.times if t > fault_time), default=None) for one in steps if one.attempt == attempt
        ]
        done = [first for first in firsts if first is not None]
        if len(done) == worlds[attempt - 1]:
            return max(done) - fault_time
    return None


def _firsts(steps: Sequence[RankSteps], attempt: int) -> list[float]:
    return [one.times[0] for one in steps if one.attempt == attempt and one.times]
