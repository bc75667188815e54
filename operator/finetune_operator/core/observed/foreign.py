"""Reads the fields of objects that others write, such as pods and Jobs; a value of the wrong type counts as absent.

An error here would end the informer for all jobs, and anyone who may create pods may label one as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from finetune_operator.core.times import from_text

Fields = Mapping[str, Any]


def fields(value: Any) -> Fields:
    """Return the fields of an object; an empty mapping for any other value."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Fields]:
    """Return the objects in a list; an empty list for any other value."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def text(value: Any) -> str | None:
    """Return a text that is not empty; None for any other value."""
    return value if isinstance(value, str) and value else None


def whole(value: Any) -> int | None:
    """Return a whole number of at most 64 bits; None for any other value."""
    return value if type(value) is int and abs(value) < 2**63 else None


def moment(value: Any) -> datetime | None:
    """Return a valid time; None for any other value."""
    with suppress(ValueError):
        return from_text(value) if isinstance(value, str) else None
    return None


def controller_uid(metadata: Any) -> str | None:
    """Return the UID of the owner that controls an object; None if it has none."""
    owners = entries(fields(metadata).get("ownerReferences"))
    return next((text(owner.get("uid")) for owner in owners if owner.get("controller") is True), None)
