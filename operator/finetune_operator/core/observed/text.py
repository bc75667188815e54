"""Makes text from others harmless and short enough for a status, an event or a log.

A pod, a registry or a node may write anything. Escape sequences move a reader's cursor, and bidirectional marks show a
sentence in another order. Either may hide the rest of a token from redaction, so they are removed first.
"""

from __future__ import annotations

import re
import unicodedata

from finetune_trainer.agent.redaction import redact

MAX_MESSAGE_BYTES = 1024
"""The longest message of a condition, a ledger entry or an event (where the API server counts bytes too)."""
MAX_LINE_BYTES = 512
"""The longest line of a pod's log in the ledger."""

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links, device strings
    r"|\x1b[ -/]*[0-~]?"
)
_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""The dropped Unicode categories: control, format (bidirectional marks, zero width), surrogate, private, unassigned."""


def plain(text: str) -> str:
    """Return text as one line without escape sequences, control characters, bidirectional marks and credentials."""
    if text.isascii() and text.isprintable():
        return redact(text).strip()
    # Redact before, because a sequence may end with a token's first letter, and after, because it may split a token.
    text = _ESCAPE_SEQUENCE.sub("", redact(text))
    spaced = (" " if character in _SPACES else character for character in text)
    return redact("".join(c for c in spaced if unicodedata.category(c) not in _DROPPED)).strip()


def shortened(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """Return the beginning of the `plain` text, at most `limit` bytes of UTF-8."""
    return plain(text).encode()[:limit].decode(errors="ignore")
