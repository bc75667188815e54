"""Free ports that no other process takes before they are used."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

import pytest

from finetune_operator.local import ports
from finetune_operator.local.ports import PORTS, free_port, free_ports

OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says which ports it gives to connections")
def test_no_connection_is_given_such_a_port() -> None:
    first, last = map(int, OF_CONNECTIONS.read_text().split())
    assert set(PORTS).isdisjoint(range(first, last + 1))
    assert free_port() in PORTS


def test_a_port_on_which_somebody_listens_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, free = taken.getsockname()[1], free_port()
        answers = iter([port, port, free])
        monkeypatch.setattr(ports._CHANCE, "choice", lambda _: next(answers))
        assert free_port() == free


def test_ports_for_several_processes_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([25000, 25000, 25001])
    monkeypatch.setattr(ports, "free_port", lambda: next(drawn))
    assert sorted(free_ports(2)) == [25000, 25001]


def test_programs_that_seed_chance_alike_get_different_ports() -> None:
    found = set()
    for _ in range(20):
        random.seed(17)
        found.add(free_port())
    assert len(found) > 1
