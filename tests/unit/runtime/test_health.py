"""The operator's HTTP endpoints: what they report to probes, and from when on."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from support.clusters import SETTINGS, operated
from support.http import get
from support.scripted import ScriptedDriver

from finetune_operator.cli.exit_codes import INVALID
from finetune_operator.cli.main import main
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.ports import free_port
from finetune_operator.protocol import ForbiddenError, Object, Resource
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.health import STUCK_AFTER, Health, application
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import Queue


@asynccontextmanager
async def asking(health: Health) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(application(health, Metrics().registry))) as client:
        yield client


async def answer(client: TestClient[Any, Any], path: str) -> tuple[int, str]:
    async with client.get(path) as response:
        return response.status, (await response.text()).strip()


async def test_the_operator_is_healthy_as_long_as_no_reconcile_hangs() -> None:
    health = Health()
    async with asking(health) as client:
        assert await answer(client, "/healthz") == (200, "ok")
        health.longest = lambda: ("legal/clauses", STUCK_AFTER)
        assert await answer(client, "/healthz") == (200, "ok")
        health.longest = lambda: ("legal/clauses", STUCK_AFTER + 12)
        said = (503, "the reconcile of legal/clauses has been running for 5m12s")
        assert await answer(client, "/healthz") == said


async def test_of_the_reconciles_that_run_the_oldest_counts() -> None:
    begun, ends = ({key: asyncio.Event() for key in "ab"} for _ in range(2))

    async def work(key: str) -> None:
        begun[key].set()
        await ends[key].wait()

    async def until_longest_is(key: str | None) -> None:
        async with asyncio.timeout(5):
            while (queue.longest and queue.longest[0]) != key:
                await asyncio.sleep(0.001)

    queue: Queue[str] = Queue(work)
    running = asyncio.create_task(queue.run())
    assert queue.longest is None
    queue.add("a")
    await until_longest_is("a")
    async with asyncio.timeout(5):
        while queue.longest is not None and queue.longest[1] < 0.01:
            await asyncio.sleep(0.001)
    queue.add("b")
    await asyncio.wait_for(begun["b"].wait(), 5)
    assert queue.longest is not None
    assert queue.longest[0] == "a"
    assert queue.longest[1] >= 0.01
    ends["a"].set()
    await until_longest_is("b")
    ends["b"].set()
    await until_longest_is(None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_operator_is_ready_once_it_can_list_jobs_and_its_informer_has_started() -> None:
    health = Health()
    async with asking(health) as client:
        assert await answer(client, "/readyz") == (503, "FineTuneJobs have not been listed yet")
        async with operated(options=Options(health=health)), asyncio.timeout(5):
            while await answer(client, "/readyz") != (200, "ok"):
                await asyncio.sleep(0.005)
        assert await answer(client, "/readyz") == (503, "the informer has ended")


async def test_why_the_operator_is_not_ready_is_told() -> None:
    class Forbidding(LocalCluster):
        async def list(
            self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
        ) -> list[Object]:
            raise ForbiddenError(403, "Forbidden", "finetune-operator cannot list finetunejobs")

    async def inform(intake: Intake) -> None:
        pytest.fail("without a list there is nothing to inform of")

    cluster, health = Forbidding(ScriptedDriver()), Health()
    operator = asyncio.create_task(operate(cluster, SETTINGS, inform, Options(health=health)))
    async with asking(health) as client, asyncio.timeout(5):
        while await answer(client, "/readyz") != (503, "finetune-operator cannot list finetunejobs"):
            await asyncio.sleep(0.005)
    operator.cancel()
    await asyncio.gather(operator, return_exceptions=True)
    await cluster.close()


async def test_metrics_are_prometheus_text() -> None:
    async with asking(Health()) as client, client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    assert "# TYPE finetune_reconcile_total counter" in text
    assert 'finetune_jobs{phase="Training"} 0.0' in text


@pytest.mark.parametrize("path", ["/", "/health", "/metrics/", "/debug"])
async def test_another_path_is_not_found(path: str) -> None:
    async with asking(Health()) as client:
        assert (await answer(client, path))[0] == 404


async def test_no_connection_is_kept() -> None:
    """The task of a kept connection would delay the operator's end."""
    async with asking(Health()) as client, client.get("/healthz") as response:
        assert response.headers["Connection"] == "close"


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["http", "-1", "65536", "80.5", "", "8_0"])
def test_what_is_no_port_is_refused_in_one_sentence(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operator", "--http-port", port]) == INVALID
    said = f"finetune: --http-port: '{port}' is not a port; give a number from 1 to 65535, or 0 for none\n"
    assert capsys.readouterr().err == said


def test_a_port_in_use_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["operator", "--http-port", str(port)]) == INVALID
    said = f"finetune: --http-port: {port} cannot be opened (Address already in use); give another port, or 0 for none"
    assert capsys.readouterr().err == f"{said}\n"


@pytest.fixture
def silent_api_server(tmp_path: Path) -> Iterator[Path]:
    """Yield a kubeconfig for a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.getsockname()[1]}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file = tmp_path / "kubeconfig"
        file.write_text(json.dumps(config))
        yield file


def test_the_endpoints_answer_before_the_api_server_does(
    silent_api_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(silent_api_server))
    port = free_port()
    command = (sys.executable, "-m", "finetune_operator.cli.main", "operator", "--http-port", str(port))
    with subprocess.Popen(command) as operator:
        try:
            deadline = time.monotonic() + 20
            while (live := get(port, "/healthz")) is None:
                assert operator.poll() is None
                assert time.monotonic() < deadline, "nothing listens"
                time.sleep(0.05)
            assert live == (200, "ok")
            assert get(port, "/readyz") == (503, "FineTuneJobs have not been listed yet")
        finally:
            operator.kill()
