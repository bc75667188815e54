"""Parsing of times in the API's text form, within a range in which arithmetic cannot overflow."""

from __future__ import annotations

from datetime import UTC, datetime

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(5138, 1, 1, tzinfo=UTC)
"""The range of accepted times; years can be added to any of them."""


def from_text(text: str) -> datetime:
    """Parse an RFC 3339 time.

    Raises ValueError if the text is no such time, or if the time is not between 1970 and 5138.
    """
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if time.tzinfo is None or not _EARLIEST <= time < _LATEST:
        raise ValueError(f"{text} is not a time that can be reckoned with")
    return time
