"""Ports for what is about to be started on this machine."""

from __future__ import annotations

import contextlib
import random
import socket

PORTS = range(20000, 30000)
"""Below those that a system gives to connections, of which any program may get one a moment later: from 32768 on Linux
(net.ipv4.ip_local_port_range), from 49152 elsewhere (RFC 6335)."""

_CHANCE = random.SystemRandom()
"""Two processes that seed `random` alike must not ask for the same ports."""


def free_port() -> int:
    """A port on which no process of this machine listens at this moment."""
    while True:
        port = _CHANCE.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def free_ports(count: int) -> list[int]:
    """So many different ports, for processes that start at the same time."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
