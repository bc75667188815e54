"""Tests of two operators on a real cluster: which one takes over, when, and what the former leader does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.http import get
from support.kubectl import Kubectl
from support.manifests import manifest

from finetune_operator.core.leadership import LEASE_SECONDS, LOOK_EVERY
from finetune_operator.local.ports import free_port

pytestmark = pytest.mark.timeout(180)
UNSCHEDULABLE = {"gpusPerNode": 0, "cpu": "1000", "memory": "1Gi"}


@dataclass
class Operator:
    """`finetune operator` for the namespace, on this machine."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def leads(self) -> bool:
        answer = get(self.port, "/metrics")
        return answer is not None and "\nfinetune_leader 1.0" in answer[1]

    @property
    def ready(self) -> bool:
        return get(self.port, "/readyz") == (200, "ok")


def until(what: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.1)


@pytest.fixture
def start(kubectl: Kubectl, tmp_path: Path) -> Iterator[Callable[[], Operator]]:
    """Return a function that starts an operator whose Lease is in the namespace that it watches."""
    kubeconfig = kubectl.own_kubeconfig(tmp_path / "kubeconfig")
    with contextlib.ExitStack() as stack:

        def started() -> Operator:
            port = free_port()
            log = tmp_path / f"{port}.log"
            arguments = ["operator", "--namespace", kubectl.namespace, "--http-port", str(port)]
            command = [sys.executable, "-m", "finetune_operator.cli.main", *arguments]
            environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
            with log.open("wb") as output:
                process = stack.enter_context(subprocess.Popen(command, env=environment, stderr=output))
            stack.callback(process.kill)
            return Operator(process, port, log)

        yield started


@pytest.fixture
def both(start: Callable[[], Operator]) -> tuple[Operator, Operator]:
    """Return a leader and a standby."""
    leader = start()
    until(lambda: leader.leads, 30)
    standby = start()
    until(lambda: standby.ready, 30)
    assert not standby.leads
    return leader, standby


def works(kubectl: Kubectl, name: str) -> None:
    """Check that a new job gets a status and children.

    No node has room for the job, so its claim needs no volume.
    """
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}
    kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "finetune"}, "spec": spec})
    kubectl.apply(manifest(name, **{"metadata.namespace": kubectl.namespace, "spec.resources": UNSCHEDULABLE}))
    until(lambda: kubectl.get("ftj", name).get("status", {}).get("run", {}).get("jobUid"), 15)


def test_the_next_one_leads_at_once_when_the_leader_is_told_to_end(
    kubectl: Kubectl, both: tuple[Operator, Operator]
) -> None:
    leader, standby = both
    works(kubectl, "before")
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(10) == 0
    until(lambda: standby.leads, LOOK_EVERY + 1)
    works(kubectl, "after")
    assert "Traceback" not in leader.log.read_text() + standby.log.read_text()


def test_the_next_one_leads_when_the_lease_of_one_that_was_killed_has_expired(
    kubectl: Kubectl, both: tuple[Operator, Operator]
) -> None:
    leader, standby = both
    leader.process.kill()
    until(lambda: standby.leads, LEASE_SECONDS + LOOK_EVERY + 2)
    works(kubectl, "after")


def test_one_that_stood_still_while_another_took_over_waits_when_it_goes_on(
    kubectl: Kubectl, both: tuple[Operator, Operator]
) -> None:
    leader, standby = both
    leader.process.send_signal(signal.SIGSTOP)
    until(lambda: standby.leads, LEASE_SECONDS + LOOK_EVERY + 2)
    leader.process.send_signal(signal.SIGCONT)
    until(lambda: "leads no more" in leader.log.read_text(), 5)
    until(lambda: leader.ready, 10)
    assert not leader.leads
    assert standby.leads
    works(kubectl, "after")
