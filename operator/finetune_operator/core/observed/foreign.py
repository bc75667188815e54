"""Reading pods and Jobs, which others write: what has not the type that the API gives it counts as absent.

An error here would end the informer for all jobs, and whoever may make pods may label one as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from finetune_operator.core.times import from_text

Fields = Mapping[str, Any]


def fields(value: Any) -> Fields:
    """Of an object; none of anything else."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Fields]:
    """The objects in a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def text(value: Any) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None


def whole(value: Any) -> int | None:
    """A whole number of at most 64 bits."""
    return value if type(value) is int and abs(value) < 2**63 else None


def moment(value: Any) -> datetime | None:
    """A time that can be reckoned with."""
    with suppress(ValueError):
        return from_text(value) if isinstance(value, str) else None
    return None


def controller_uid(metadata: Any) -> str | None:
    """The UID of the owner that controls an object."""
    owners = entries(fields(metadata).get("ownerReferences"))
    return next((text(owner.get("uid")) for owner in owners if owner.get("controller") is True), None)
