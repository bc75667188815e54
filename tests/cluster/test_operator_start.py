"""Tests of what can prevent the operator's start: it is reported as one message in the log and in /readyz.

Once it is resolved, the operator becomes ready without a restart.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm import Helm, of_kind, only
from support.http import get
from support.kubectl import Kubectl

from finetune_operator.local.ports import free_port

DEADLINE = 60.0
"""Seconds until the operator reports something: it waits up to half a minute between two attempts."""
pytestmark = pytest.mark.timeout(180)


@dataclass
class Operator:
    """`finetune operator` for one namespace, on this machine."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def readyz(self) -> tuple[int, str] | None:
        """Return the status code and the text of /readyz, or None while the operator does not listen."""
        return get(self.port, "/readyz")

    def until(self, what: Callable[[str], bool], status: int) -> str:
        """Return the text of /readyz when `what` is true of it; fail if the process ends before."""
        deadline = time.monotonic() + DEADLINE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            answer = self.readyz()
            if answer and answer[0] == status and what(answer[1]):
                return answer[1]
            assert time.monotonic() < deadline, f"{answer}\n{self.log.read_text()}"
            time.sleep(0.1)

    def becomes_ready(self, after: str) -> None:
        """Wait until the operator leads, and check that it has logged the message `after` once and no traceback."""
        self.until("ok".__eq__, 200)
        deadline = time.monotonic() + DEADLINE
        while len(lines := self.log.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline, f"it does not lead: {lines}"
            time.sleep(0.1)
        told, leads = lines
        assert told.endswith(f" ERROR finetune_operator.runtime.health: {after}")
        assert " leads by Lease " in leads


Start = Callable[..., Operator]


@pytest.fixture
def start(kubectl: Kubectl, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts an operator with a kubeconfig, which need not exist, and a configuration."""
    with contextlib.ExitStack() as stack:

        def started(kubeconfig: Path, config: Path | None = None) -> Operator:
            port, log = free_port(), tmp_path / "operator.log"
            arguments = ["operator", "--namespace", kubectl.namespace, "--http-port", str(port)]
            arguments += ["--config", str(config)] if config else []
            command = [sys.executable, "-m", "finetune_operator.cli.main", *arguments]
            environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
            with log.open("wb") as output:
                process = stack.enter_context(subprocess.Popen(command, env=environment, stderr=output))
            stack.callback(process.terminate)
            return Operator(process, port, log)

        yield started


def administrator(kubectl: Kubectl) -> dict[str, Any]:
    """Return kubectl's kubeconfig as one document."""
    config: dict[str, Any] = yaml.safe_load(kubectl.run("config", "view", "--raw", "--minify", "--flatten").stdout)
    return config


@contextlib.contextmanager
def proxy(port: int, *flags: str) -> Iterator[None]:
    """Run a proxy to the API server with the administrator's credentials until the block ends."""
    with subprocess.Popen(["kubectl", "proxy", "--port", str(port), *flags], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"Starting to serve" in process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


def by_proxy(port: int, file: Path) -> Path:
    """Write a kubeconfig for the proxy."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_user_without_rights(helm: Helm, kubectl: Kubectl, tmp_path: Path, start: Start) -> None:
    values = {"scope": "namespaced", "crds": {"install": False}, "rbac": {"aggregate": False}}
    objects = helm.render(values, namespace=kubectl.namespace)
    account = only(objects, "ServiceAccount")
    kubectl.apply(account)
    config = tmp_path / "config.yaml"
    config.write_text(only(objects, "ConfigMap")["data"]["config.yaml"])
    operator = start(kubectl.kubeconfig(account["metadata"]["name"], tmp_path / "kubeconfig"), config)
    said = operator.until(lambda said: "forbidden" in said, 503)
    assert 'cannot list resource "finetunejobs" in API group "finetune.dev"' in said
    for kind in ("Role", "RoleBinding"):
        for found in of_kind(objects, kind):
            kubectl.apply(found)
    operator.becomes_ready(said)


def test_an_api_server_that_is_not_reached(tmp_path: Path, start: Start) -> None:
    port = free_port()
    operator = start(by_proxy(port, tmp_path / "kubeconfig"))
    said = operator.until(lambda said: "not reached" in said, 503)
    assert f"the API server was not reached: Cannot connect to host 127.0.0.1:{port}" in said
    with proxy(port):
        operator.becomes_ready(said)


def test_a_cluster_without_the_definition(kubectl: Kubectl, tmp_path: Path, start: Start) -> None:
    """Requests below an unknown API group get the same answer as requests for an undefined resource."""
    config = administrator(kubectl)
    config["clusters"][0]["cluster"]["server"] += "/apis/nobody.example"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(yaml.safe_dump(config))
    port = free_port()
    with proxy(port, "--append-server-path", "--kubeconfig", str(elsewhere)):
        operator = start(by_proxy(port, tmp_path / "kubeconfig"))
        said = operator.until(lambda said: "FineTuneJobs" in said and "listed" not in said, 503)
    assert said == "the cluster does not know FineTuneJobs; run: finetune crd | kubectl apply --server-side -f -"
    with proxy(port):
        operator.becomes_ready(said)


def test_a_kubeconfig_that_is_not_there(kubectl: Kubectl, tmp_path: Path, start: Start) -> None:
    missing = tmp_path / "not" / "yet"
    operator = start(missing)
    said = operator.until(lambda said: "kubeconfig" in said, 503)
    assert said == (
        f"there is no cluster to talk to (there is no kubeconfig at {missing}); set KUBECONFIG to a kubeconfig"
    )
    missing.parent.mkdir()
    missing.write_text(yaml.safe_dump(administrator(kubectl)))
    operator.becomes_ready(said)
