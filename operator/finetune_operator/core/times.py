"""Times as the Kubernetes API writes them: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_operator.api.times import from_text as from_text

LARGEST_SECONDS = 10**11
"""In the year 5138."""


def to_text(time: datetime) -> str:
    """For status fields; microseconds are left out, so that equal moments compare equal."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_seconds(seconds: float) -> datetime | None:
    """Of seconds since the epoch, as the contract has them; None if no calendar has that time."""
    return datetime.fromtimestamp(seconds, UTC) if 0 <= seconds < LARGEST_SECONDS else None


def duration(seconds: float) -> str:
    """For people: 42s, 3m20s, 2h5m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m"


def within(elapsed: timedelta, seconds: float) -> bool:
    """Whether an interval goes on. A clock that was set back ends it: it must not silence anybody."""
    return timedelta() <= elapsed < timedelta(seconds=seconds)
