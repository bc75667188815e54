"""Determines how a pod ended, after all its ranks have: the cause, the exit code and the termination message.

The ranks' exit files decide: among the ranks that failed, the earliest error is the cause and the others are symptoms.
A rank without an exit file was ended from outside. The functions are pure: all observations are passed in an `End`.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from finetune_trainer.contract import (
    BEFORE_TRAINING,
    CLASS_OF_EXIT_CODE,
    CONTRACT_VERSION,
    MAX_LOG_LINES,
    CheckpointReport,
    ExitCode,
    Facts,
    RankExit,
    RankStatus,
    RunConfig,
    TerminationMessage,
)

INFRASTRUCTURE = 1
MAX_ROW_CHARACTERS = 80
"""The length to which a row's id is cut in the termination message."""


@dataclass(frozen=True)
class End:
    """What is known when all ranks of a pod have ended."""

    config: RunConfig
    index: int
    time: float
    codes: Mapping[int, int] = field(default_factory=dict)
    """The exit codes of the ranks that ended by themselves, by rank, negative for a signal, in the order in which they
    were noticed. Ranks that the agent then ended are left out."""
    store_code: int | None = None
    """The exit code of the store at which the ranks meet, if it ended before them."""
    exits: Mapping[int, RankExit] = field(default_factory=dict)
    """The exit files of the ranks, by rank."""
    statuses: Mapping[int, RankStatus] = field(default_factory=dict)
    """The last statuses of the ranks, by rank."""
    oom_killed: bool = False
    """Whether the OOM killer has killed a process in this pod."""
    killed_after: float | None = None
    """Seconds from a stop request until the agent ended ranks that had not stopped; None if it did not."""
    checkpoint: CheckpointReport | None = None
    """The newest checkpoint that rank 0 has reported."""
    facts: Facts | None = None
    """The facts that rank 0 found in the data."""

    @property
    def ranks(self) -> range:
        return ranks_of(self.config, self.index)


@dataclass(frozen=True)
class Cause:
    """The failure that explains the others, or the success."""

    exit_code: int
    rank: int | None = None
    error: str | None = None
    time: float | None = None


def ranks_of(config: RunConfig, index: int) -> range:
    """Return the global ranks of the pod `index`."""
    local = config.world.processes_per_node
    return range(index * local, (index + 1) * local)


def met(statuses: Iterable[RankStatus]) -> bool:
    """Return whether the ranks have met: from then on each of them sees a stop request by itself."""
    return any(True for _ in statuses)


def begun(statuses: Iterable[RankStatus]) -> bool:
    """Return whether any rank is past meeting and loading, during which there is nothing to save."""
    return any(status.phase not in BEFORE_TRAINING for status in statuses)


def cause_of(end: End) -> Cause:
    """Return why the pod ended as it did."""
    claims = {(e.world, e.config_digest) for e in end.exits.values() if e.world is not None or e.config_digest}
    if len(claims) > 1:
        return Cause(ExitCode.MISMATCH, error=_disagreement(end), time=end.time)
    failed = [exit_ for exit_ in end.exits.values() if exit_.exit_code != 0]
    earliest = min(failed, key=lambda e: (math.inf if e.error_time is None else e.error_time, e.rank), default=None)
    # A failure without a class is often only the reaction to the end of another rank.
    is_explained = earliest is not None and earliest.exit_code in CLASS_OF_EXIT_CODE
    if not is_explained and (killed := _killed(end)) is not None:
        return killed
    missing = _missing(end)
    if not is_explained and (earliest or missing) and (lost := _lost_store(end)) is not None:
        return lost
    # An error without a time only reports that another rank ended. A rank that ended before, without an exit file,
    # explains more.
    is_told = is_explained or (earliest is not None and earliest.error_time is not None)
    if earliest is not None and (is_told or not any(rank in end.codes for rank in missing)):
        error = earliest.error or f"Rank {earliest.rank} ended with exit code {earliest.exit_code} and gave no reason."
        # If all ranks failed because of another rank, the cause has no time: it is in another pod's message.
        return Cause(earliest.exit_code, earliest.rank, error, earliest.error_time)
    if missing:
        return Cause(INFRASTRUCTURE, _first_of(missing, end), _unexplained(end, missing), end.time)
    return _checked_success(end)


def _killed(end: End) -> Cause | None:
    """Return the cause if a rank without an exit file was ended from outside."""
    missing = _missing(end)
    if not missing:
        return None
    rank = _first_of(missing, end)
    # Its last heartbeat is earlier than the time at which any other rank could notice its end.
    time = end.statuses[rank].heartbeat if rank in end.statuses else end.time
    if end.oom_killed:
        error = f"Rank {rank} was killed because the pod ran out of memory; raise resources.memory."
        return Cause(ExitCode.OUT_OF_MEMORY, rank, error, time)
    if end.killed_after is not None:
        error = f"The pod was asked to stop; its ranks had not stopped {end.killed_after:.0f} s later and were killed."
        if not begun(end.statuses.values()):
            error = "The pod was asked to stop before its training began."
        return Cause(ExitCode.PREEMPTED, rank, error, time)
    code = end.codes.get(rank, 0)
    # Libraries abort the process when they notice that another rank has failed.
    is_reaction = code == -signal.SIGABRT and next(iter(end.codes)) != rank
    if code < 0 and not is_reaction:
        return Cause(128 - code, rank, f"Rank {rank} was killed by {_signal(-code)}.", time)
    return None


def _lost_store(end: End) -> Cause | None:
    """Return the cause if the store at which the ranks meet has ended."""
    if (code := end.store_code) is None:
        return None
    what = "The process in which the ranks meet"
    if end.oom_killed:
        error = f"{what} was killed because the pod ran out of memory; raise resources.memory."
        return Cause(ExitCode.OUT_OF_MEMORY, None, error, end.time)
    if code < 0:
        return Cause(128 - code, None, f"{what} was killed by {_signal(-code)}.", end.time)
    return Cause(INFRASTRUCTURE, None, f"{what} ended with exit code {code}.", end.time)


def _checked_success(end: End) -> Cause:
    """Return success, unless the ranks attest another world or configuration or rank 0 has no result."""
    if attested(end) != (end.config.world.size, end.config.digest):
        return Cause(ExitCode.MISMATCH, error=_disagreement(end), time=end.time)
    if end.index == 0 and end.exits[0].result is None:
        return Cause(INFRASTRUCTURE, 0, "Rank 0 ended without an error and without a result.", end.time)
    return Cause(ExitCode.DONE)


def attested(end: End) -> tuple[int | None, str | None]:
    """Return the world size and the digest of run.json that the pod's ranks attested.

    Returns (None, None) unless every rank attested the same.
    """
    claims = {(exit_.world, exit_.config_digest) for exit_ in end.exits.values()}
    if _missing(end) or len(claims) != 1:
        return None, None
    return claims.pop()


def message(end: End, cause: Cause, pod_uid: str, log: tuple[str, ...]) -> TerminationMessage:
    """Return the pod's termination message."""
    world, digest = attested(end)
    unsaid = cause.rank is None or cause.rank in _missing(end)
    unexplained = cause.error and log and cause.exit_code == INFRASTRUCTURE and unsaid
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
        facts=end.facts,
        result=end.exits[0].result if cause.exit_code == ExitCode.DONE and end.index == 0 else None,
        log=log,
        contract=CONTRACT_VERSION,
    )


def _missing(end: End) -> list[int]:
    return [rank for rank in end.ranks if rank not in end.exits]


def _first_of(missing: list[int], end: End) -> int:
    """Return the rank without an exit file that failed first, or the lowest such rank if none ended by itself."""
    ended = sorted((rank for rank in end.codes if rank in missing), key=lambda rank: end.codes[rank] == 0)
    return ended[0] if ended else missing[0]


def _unexplained(end: End, missing: list[int]) -> str:
    ranks = f"Rank {missing[0]}" if len(missing) == 1 else f"Ranks {', '.join(map(str, missing[:MAX_LOG_LINES]))}"
    first = _first_of(missing, end)
    if first not in end.codes:
        return f"{ranks} ended without saying why."
    code = end.codes[first]
    known = f"with exit code {code}" if code >= 0 else f"by {_signal(-code)}"
    return f"{ranks} ended without saying why{'' if len(missing) == 1 else f', rank {first} first'}, {known}."


def _disagreement(end: End) -> str:
    found = "; ".join(
        f"rank {e.rank} found {e.world} and {(e.config_digest or 'none')[:12]}" for e in list(end.exits.values())[:4]
    )
    return (
        f"The ranks did not train what was asked for: {end.config.world.size} ranks with configuration "
        f"{end.config.digest[:12]} were asked for; {found}."
    )


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
