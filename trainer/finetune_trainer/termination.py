"""How a pod ended: the cause, the exit code and the last message, from what is left when all ranks are gone.

torchrun ends with 1 whatever happened, so the ranks' own files decide: among those that failed, the earliest error is
the cause and the others are symptoms. A rank without a file was ended from outside. Pure: everything observed comes in
as `End`.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from finetune_trainer.contract import (
    CLASS_OF_EXIT_CODE,
    MAX_LOG_LINES,
    CheckpointReport,
    ExitCode,
    Phase,
    RankExit,
    RankStatus,
    RunConfig,
    TerminationMessage,
)

INFRASTRUCTURE = 1
MAX_ROW_CHARACTERS = 80
"""Of a row's id, in the last message."""
BEFORE_TRAINING = (Phase.INIT, Phase.LOAD, Phase.COMPILE)
"""There is nothing to save yet, and no step in which all ranks would hear of a stop."""

FAILED_FIRST = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: ")
"""torchrun's log of the rank that ended first (torch/distributed/elastic/multiprocessing/api.py); the exit code of each
rank is known to nobody else."""


@dataclass(frozen=True)
class End:
    """What is known when torchrun has ended."""

    config: RunConfig
    index: int
    launcher_code: int
    """torchrun's exit code, negative for a signal."""
    time: float
    exits: Mapping[int, RankExit] = field(default_factory=dict)
    """By rank."""
    statuses: Mapping[int, RankStatus] = field(default_factory=dict)
    """By rank."""
    failed_first: tuple[int, int] | None = None
    """Rank and exit code of the first process that ended badly, as torchrun saw it."""
    oom_killed: bool = False
    """The OOM killer struck in this pod."""
    killed_after: float | None = None
    """Seconds after a stop request at which the agent ended ranks that had not stopped."""
    checkpoint: CheckpointReport | None = None
    """The newest that rank 0 has told of."""

    @property
    def ranks(self) -> range:
        return ranks_of(self.config, self.index)


@dataclass(frozen=True)
class Cause:
    """The failure that explains the others; or the success."""

    exit_code: int
    rank: int | None = None
    error: str | None = None
    time: float | None = None


def ranks_of(config: RunConfig, index: int) -> range:
    """Global ranks of the pod `index`."""
    local = config.world.processes_per_node
    return range(index * local, (index + 1) * local)


def met(statuses: Iterable[RankStatus]) -> bool:
    """Whether the ranks have met: from then on each of them sees a request to stop by itself."""
    return any(True for _ in statuses)


def begun(statuses: Iterable[RankStatus]) -> bool:
    """Whether the ranks are past meeting and loading, in which there is nothing to save."""
    return any(status.phase not in BEFORE_TRAINING for status in statuses)


def failed_first(launcher_lines: Iterable[str], first_rank: int) -> tuple[int, int] | None:
    """Rank and exit code of the process that torchrun saw fail first."""
    for line in launcher_lines:
        if match := FAILED_FIRST.search(line):
            return first_rank + int(match[2]), int(match[1])
    return None


def cause_of(end: End) -> Cause:
    """Why the pod ended as it did."""
    claims = {(e.world, e.config_digest) for e in end.exits.values() if e.world is not None or e.config_digest}
    if len(claims) > 1:
        return Cause(ExitCode.MISMATCH, error=_disagreement(end), time=end.time)
    failed = [exit_ for exit_ in end.exits.values() if exit_.exit_code != 0]
    earliest = min(failed, key=lambda e: (math.inf if e.error_time is None else e.error_time, e.rank), default=None)
    # A failure without a class is often only how a rank noticed the end of another one.
    is_explained = earliest is not None and earliest.exit_code in CLASS_OF_EXIT_CODE
    if not is_explained and (killed := _killed(end)) is not None:
        return killed
    if earliest is not None:
        error = earliest.error or f"Rank {earliest.rank} ended with exit code {earliest.exit_code} and gave no reason."
        # Without a time if all failed for a sibling's sake: another pod's word is the cause.
        return Cause(earliest.exit_code, earliest.rank, error, earliest.error_time)
    if missing := _missing(end):
        return Cause(INFRASTRUCTURE, missing[0], _unexplained(end, missing), end.time)
    return _checked_success(end)


def _killed(end: End) -> Cause | None:
    """The cause, if a rank that left no file was ended from outside."""
    missing = _missing(end)
    if not missing:
        return None
    first_rank, first_code = end.failed_first or (None, None)
    rank = first_rank if first_rank in missing else missing[0]
    # When it last lived is before anyone else could notice its death.
    time = end.statuses[rank].heartbeat if rank in end.statuses else end.time
    if end.oom_killed:
        error = f"Rank {rank} was killed because the pod ran out of memory; raise resources.memory."
        return Cause(ExitCode.OUT_OF_MEMORY, rank, error, time)
    if end.killed_after is not None:
        error = f"The pod was asked to stop; its ranks had not stopped {end.killed_after:.0f} s later and were killed."
        if not begun(end.statuses.values()):
            error = "The pod was asked to stop before its training began."
        return Cause(ExitCode.PREEMPTED, rank, error, time)
    if first_rank == rank and first_code is not None and first_code < 0:
        return Cause(128 - first_code, rank, f"Rank {rank} was killed by {_signal(-first_code)}.", time)
    if end.launcher_code == -signal.SIGKILL:
        return Cause(128 + signal.SIGKILL, None, f"torchrun was killed by {_signal(signal.SIGKILL)}.", time)
    return None


def _checked_success(end: End) -> Cause:
    """All ranks ended with 0; they must also agree with what was asked for, and rank 0 must have a result."""
    if attested(end) != (end.config.world.size, end.config.digest):
        return Cause(ExitCode.MISMATCH, error=_disagreement(end), time=end.time)
    if end.index == 0 and end.exits[0].result is None:
        return Cause(INFRASTRUCTURE, 0, "Rank 0 ended without an error and without a result.", end.time)
    return Cause(ExitCode.DONE)


def attested(end: End) -> tuple[int | None, str | None]:
    """World size and digest of run.json, if every rank of the pod wrote the same; else (None, None)."""
    claims = {(exit_.world, exit_.config_digest) for exit_ in end.exits.values()}
    if _missing(end) or len(claims) != 1:
        return None, None
    return claims.pop()


def message(end: End, cause: Cause, pod_uid: str, log: tuple[str, ...]) -> TerminationMessage:
    """The pod's last word."""
    world, digest = attested(end)
    unexplained = cause.error and log and cause.exit_code == INFRASTRUCTURE and cause.rank in _missing(end)
    error = f"{cause.error} Its last line: {log[-1]}" if unexplained else cause.error
    failed = end.exits.get(cause.rank) if cause.rank is not None else None
    steps = [exit_.step for exit_ in end.exits.values()] + [status.step for status in end.statuses.values()]
    return TerminationMessage(
        pod_uid=pod_uid,
        index=end.index,
        attempt=end.config.attempt,
        nonce=end.config.nonce,
        exit_code=cause.exit_code,
        world=world,
        config_digest=digest,
        step=max(steps, default=0),
        failing_rank=cause.rank,
        error=error,
        error_time=cause.time,
        rows=tuple(row[:MAX_ROW_CHARACTERS] for row in failed.rows) if failed else (),
        slowest_rank=failed.slowest_rank if failed else None,
        checkpoint=end.checkpoint,
        result=end.exits[0].result if cause.exit_code == ExitCode.DONE and end.index == 0 else None,
        log=log,
    )


def _missing(end: End) -> list[int]:
    return [rank for rank in end.ranks if rank not in end.exits]


def _unexplained(end: End, missing: list[int]) -> str:
    ranks = f"Rank {missing[0]}" if len(missing) == 1 else f"Ranks {', '.join(map(str, missing[:MAX_LOG_LINES]))}"
    known = f"torchrun ended with {_ended(end.launcher_code)}"
    if end.failed_first is not None:
        known += f" after rank {end.failed_first[0]} had ended with {_ended(end.failed_first[1])}"
    return f"{ranks} ended without saying why; {known}."


def _disagreement(end: End) -> str:
    found = "; ".join(
        f"rank {e.rank} found {e.world} and {(e.config_digest or 'none')[:12]}" for e in list(end.exits.values())[:4]
    )
    return (
        f"The ranks did not train what was asked for: {end.config.world.size} ranks with configuration "
        f"{end.config.digest[:12]} were asked for; {found}."
    )


def _ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else _signal(-code)


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
