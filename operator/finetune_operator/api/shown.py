"""Values of others as a sentence shows them: as they are written in a manifest, on one line, and cut."""

from __future__ import annotations

import json
from typing import Any

MAX_SHOWN = 80
"""Characters."""


def shown(value: Any) -> str:
    """A text in quotes, anything else as JSON; cut."""
    if isinstance(value, str):
        return f"'{cut(value)}'"
    return cut(json.dumps(value, ensure_ascii=False, default=str))


def cut(text: str, limit: int = MAX_SHOWN) -> str:
    """The beginning of a text, with what no line can show written out (a line break as \\n)."""
    if len(text) <= limit and text.isprintable():
        return text
    beginning = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in beginning)
