"""A loopback address for each pod on one machine.

On Linux all addresses of 127.0.0.0/8 belong to the machine itself. Pods get addresses of a random block of them, so
that every pod can use the same port and two runs on one machine do not interfere. Other systems have only 127.0.0.1, so
one pod can run at a time.
"""

from __future__ import annotations

import random
import socket

ONLY_ADDRESS = "127.0.0.1"


class NoAddressError(Exception):
    """All addresses are in use; the message explains the limit."""


def _can_bind(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def loopback_interface() -> str:
    """Return the name of the loopback interface: lo, or lo0 on macOS."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), "lo")


class LoopbackAddresses:
    """The free addresses."""

    def __init__(self) -> None:
        block = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        several = _can_bind(f"{block}.1")
        self._free = [f"{block}.{host}" for host in range(1, 255)] if several else [ONLY_ADDRESS]
        self._several = several

    def take(self) -> str:
        """Return a free address, which is then in use.

        Raises NoAddressError.
        """
        if self._free:
            return self._free.pop(0)
        if self._several:
            raise NoAddressError("254 pods run on this machine already")
        raise NoAddressError(
            "this machine has one loopback address, so one pod can run at a time: set resources.nodes to 1 "
            "(resources.processesPerNode gives several ranks)"
        )

    def give_back(self, address: str) -> None:
        """Return an address to the free ones, as the last to be taken again."""
        self._free.append(address)
