"""Formats values from manifests for messages: as a manifest writes them, on one line, shortened."""

from __future__ import annotations

import json
from typing import Any

MAX_SHOWN = 80
"""The maximum number of characters that a message shows of one value."""


def shown(value: Any) -> str:
    """Return a string in quotes and any other value as JSON, shortened to MAX_SHOWN characters."""
    if isinstance(value, str):
        return f"'{cut(value)}'"
    return cut(json.dumps(value, ensure_ascii=False, default=str))


def cut(text: str, limit: int = MAX_SHOWN) -> str:
    """Shorten a text to `limit` characters, and escape the unprintable ones, such as line breaks."""
    if len(text) <= limit and text.isprintable():
        return text
    beginning = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in beginning)
