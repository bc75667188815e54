"""Text of others that goes into a status or an event: only as much of it as there is room for."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 1024
"""Of a condition, a ledger entry or an event's note (where the API server counts bytes too)."""


def shortened(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """The beginning of a text, at most `limit` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")
