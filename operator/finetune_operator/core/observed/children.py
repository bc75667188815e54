"""Describes a child that is missing while its attempt goes on; the attempt's Job is not among them."""

from __future__ import annotations

from typing import NamedTuple


class MissingChild(NamedTuple):
    """A ConfigMap, Service or NetworkPolicy that the attempt's pods need and that somebody has deleted."""

    kind: str
    name: str
    can_be_made: bool
    """Whether the same object can be created again.

    Its content follows from the spec and the operator's configuration, and either may have changed since.
    """
