"""The ledger: the durable list of attempts that ended, which explains to users what happened to their job.

Its size is bounded, so that a status stays below 32 KiB. It keeps the newest entries, log lines only in the last few of
them, and the number of entries that were dropped.
"""

from __future__ import annotations

from datetime import datetime

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, LedgerEntry, RunStatus
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.observed.text import shortened
from finetune_operator.core.times import to_text

SUCCESS = "Success"
MAX_ENTRIES = 20
MAX_BYTES = 14 * 1024
"""The largest size of the ledger: what is left of 32 KiB when all other fields of a status are as long as possible."""
ENTRIES_WITH_LOG = 3


def failure(
    run: RunStatus,
    cause: Cause,
    counted: bool,
    addition: str,
    step: int | None,
    now: datetime,
    checkpoint_step: int | None = None,
) -> LedgerEntry:
    """Return the entry of a failed attempt.

    `addition` says why no other attempt follows, or what is different in it. `step` is the last step that was reported
    while the attempt ran.
    """
    message = f"{cause.message.removesuffix('.')}; {addition}" if addition else cause.message
    return LedgerEntry(
        run=run.number,
        attempt=run.attempt,
        class_=cause.failure,
        counted=counted,
        message=shortened(message),
        exit_code=cause.exit_code,
        rank=cause.rank,
        node=cause.node,
        pod=cause.pod,
        step=cause.step if cause.step is not None else step,
        checkpoint_step=checkpoint_step,
        slowest_rank=cause.slowest_rank,
        rows=list(cause.rows),
        start_time=run.attempt_time or run.start_time,
        end_time=to_text(now),
        log=list(cause.log),
    )


def success(run: RunStatus, step: int, now: datetime) -> LedgerEntry:
    """Return the entry of an attempt with a result."""
    start, end = run.attempt_time or run.start_time, to_text(now)
    return LedgerEntry(
        run=run.number, attempt=run.attempt, class_=SUCCESS, message="", step=step, start_time=start, end_time=end
    )


def entered(status: FineTuneJobStatus, entry: LedgerEntry) -> FineTuneJobStatus:
    """Return the status with one more entry, within the bounds."""
    every = [*status.ledger, entry]
    kept = every[-MAX_ENTRIES:]
    kept = [e.model_copy(update={"log": []}) for e in kept[:-ENTRIES_WITH_LOG]] + kept[-ENTRIES_WITH_LOG:]
    while sum(len(e.model_dump_json(by_alias=True).encode()) for e in kept) > MAX_BYTES:
        oldest_log = next((number for number, e in enumerate(kept[:-1]) if e.log), None)
        if oldest_log is None:
            kept = kept[1:]
        else:
            kept[oldest_log] = kept[oldest_log].model_copy(update={"log": []})
    dropped = status.ledger_dropped + len(every) - len(kept)
    return status.model_copy(update={"ledger": kept, "ledger_dropped": dropped})


def last_failure(status: FineTuneJobStatus) -> LedgerEntry | None:
    """Return the entry of the newest run's last attempt if that attempt failed."""
    newest = status.ledger[-1] if status.ledger else None
    if newest is None or status.run is None or newest.run != status.run.number or newest.class_ == SUCCESS:
        return None
    return newest


def described(entry: LedgerEntry) -> str:
    """Describe an entry in a sentence: class, exit code, node and message."""
    known = {"exit code": entry.exit_code, "node": entry.node}
    where = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    return f"{entry.class_} ({where}): {entry.message}" if where else f"{entry.class_}: {entry.message}"
