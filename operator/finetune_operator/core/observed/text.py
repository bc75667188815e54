"""Text of others that goes into a status, an event or a log: harmless, and only as much of it as there is room for.

A pod, a registry or a node writes what it likes. Escape sequences move a reader's cursor, marks of direction show a
sentence as another one, and either may hide the rest of a token from redaction; so they go first.
"""

from __future__ import annotations

import re
import unicodedata

from finetune_trainer.agent.redaction import redact

MAX_MESSAGE_BYTES = 1024
"""Of a condition, a ledger entry or an event's note (where the API server counts bytes too)."""
MAX_LINE_BYTES = 512
"""Of a line of a pod's log in the ledger."""

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links, device strings
    r"|\x1b[ -/]*[0-~]?"
)
_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Categories of Unicode: control, format (marks of direction, zero width), surrogate, private, unassigned."""


def plain(text: str) -> str:
    """One line that shows what it says: no escape sequence, control character, mark of direction or credential."""
    if text.isascii() and text.isprintable():
        return redact(text).strip()
    # Before, because a sequence may end with the first letter of a token; and after, because it may part one.
    text = _ESCAPE_SEQUENCE.sub("", redact(text))
    spaced = (" " if character in _SPACES else character for character in text)
    return redact("".join(c for c in spaced if unicodedata.category(c) not in _DROPPED)).strip()


def shortened(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """The beginning of `plain` text, at most `limit` bytes of UTF-8."""
    return plain(text).encode()[:limit].decode(errors="ignore")
