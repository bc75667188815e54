"""The children of an attempt besides its Job, as far as one of them is missing while the attempt goes on."""

from __future__ import annotations

from typing import NamedTuple


class MissingChild(NamedTuple):
    """A ConfigMap, Service or NetworkPolicy that the attempt's pods need, and that somebody has deleted."""

    kind: str
    name: str
    can_be_made: bool
    """Whether the very same object can be made again: its content follows from the spec and the operator's
    configuration, and either may have changed since."""
