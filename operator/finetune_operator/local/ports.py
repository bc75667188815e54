"""Free ports for processes that are about to start on this machine."""

from __future__ import annotations

import contextlib
import random
import socket

PORTS = range(20000, 30000)
"""The range of ports to choose from.

It lies below the ephemeral ports, which any program may be assigned for a connection a moment later: these begin at
32768 on Linux (net.ipv4.ip_local_port_range) and at 49152 elsewhere (RFC 6335).
"""

_CHANCE = random.SystemRandom()
"""A source of randomness without a seed, so that two processes with equal seeds of `random` choose different ports."""


def free_port() -> int:
    """Return a port on which no process of this machine listens at this moment."""
    while True:
        port = _CHANCE.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def free_ports(count: int) -> list[int]:
    """Return `count` different free ports, for processes that start at the same time."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
