"""Times as the Kubernetes API writes them: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_operator.api.times import from_text as from_text

LARGEST_SECONDS = 10**11
"""The limit for seconds since the epoch; it lies in the year 5138."""


def to_text(time: datetime) -> str:
    """Return a time for status fields, without microseconds, so that equal moments compare equal."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_seconds(seconds: float) -> datetime | None:
    """Return the time of seconds since the epoch, as the contract has them; None if they are out of range."""
    return datetime.fromtimestamp(seconds, UTC) if 0 <= seconds < LARGEST_SECONDS else None


def duration(seconds: float) -> str:
    """Return a duration for users, such as 42s, 3m20s or 2h5m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m"


def within(elapsed: timedelta, seconds: float) -> bool:
    """Return whether less than `seconds` have elapsed.

    A clock that was set back ends the interval, so that it does not suppress anything for long.
    """
    return timedelta() <= elapsed < timedelta(seconds=seconds)
