"""Times in the API's text form, as far as they can be reckoned with."""

from __future__ import annotations

from datetime import UTC, datetime

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(5138, 1, 1, tzinfo=UTC)
"""Years may be added to what lies between."""


def from_text(text: str) -> datetime:
    """Of any RFC 3339 time between 1970 and 5138. Raises ValueError otherwise."""
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if time.tzinfo is None or not _EARLIEST <= time < _LATEST:
        raise ValueError(f"{text} is not a time that can be reckoned with")
    return time
