"""The pod's HTTP server: what it answers and which requests it refuses."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from unit.agent.pod import wait_until

from finetune_trainer.agent import server as agent_server
from finetune_trainer.agent.server import MAX_CONNECTIONS, BoundedServer, Rate
from finetune_trainer.contract import MAX_STATUS_BYTES, CheckpointReport, Phase, PodStatus, Progress, RankStatus


def status_of(ranks: int, progress: Progress | None = None) -> PodStatus:
    attested = tuple(
        RankStatus(
            rank=rank,
            world=ranks,
            config_digest="d" * 64,
            backend="nccl",
            zero_stage=3,
            phase=Phase.TRAIN,
            step=100_000,
            heartbeat=1_700_000_000.123456,
        )
        for rank in range(ranks)
    )
    return PodStatus(pod_uid="u" * 36, attempt=1, nonce="n" * 32, index=0, ranks=attested, progress=progress)


REQUESTS: list[str] = []
"""The requests for checkpoints that all servers have received."""


@pytest.fixture(scope="module")
def server() -> Iterator[BoundedServer]:
    """Start a server without a rate limit, which has its own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_server, "BURST", 1_000_000)
        server = agent_server.serve("127.0.0.1", 0, lambda: status_of(2), REQUESTS.append)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def rated_server() -> Iterator[BoundedServer]:
    server = agent_server.serve("127.0.0.1", 0, lambda: status_of(2), REQUESTS.append)
    yield server
    server.shutdown()
    server.server_close()


def ask(server: BoundedServer, method: str, path: str, **request: Any) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, **request)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def told(server: BoundedServer, request: bytes) -> bytes:
    """Return all that the server sends on a connection after these bytes, or nothing if it closes the connection."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(request)
        while data := client.recv(65536):
            answer += data
    return answer


def test_status_is_the_pods_status_as_json(server: BoundedServer) -> None:
    code, body = ask(server, "GET", "/status")
    assert code == 200
    assert PodStatus.model_validate_json(body) == status_of(2)


@pytest.mark.parametrize("path", ["/", "/status/", "/statusx?x=1", "/../status", "/etc/passwd"])
def test_other_paths_are_not_found(server: BoundedServer, path: str) -> None:
    assert ask(server, "GET", path) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "<b>"])
@pytest.mark.parametrize("path", ["/status", "/metrics", "/progress"])
def test_the_agents_port_answers_only_get(server: BoundedServer, method: str, path: str) -> None:
    assert ask(server, method, path) == (405, b"")
    assert told(server, f"{method} {path} HTTP/1.0\r\n\r\n".encode()).endswith(b"\r\n\r\n"), "nothing is repeated"


def test_a_body_is_not_read(server: BoundedServer) -> None:
    assert ask(server, "POST", "/status", headers={"Content-Length": str(10**12)}) == (405, b"")


def test_one_connection_is_for_one_request(server: BoundedServer) -> None:
    request = b"GET /status HTTP/1.1\r\nHost: pod\r\nConnection: keep-alive\r\n\r\n"
    assert told(server, 3 * request).count(b"200 OK") <= 1


def test_a_request_has_a_size(server: BoundedServer) -> None:
    fitting = b"GET /status HTTP/1.0\r\n" + b"x: %s\r\n\r\n" % (b"y" * (agent_server.MAX_HEAD_BYTES - 100))
    assert b"200 OK" in told(server, fitting)
    endless = b"GET /status HTTP/1.0\r\n" + b"x: y\r\n" * 100_000
    assert b"200" not in told(server, endless)
    assert b"200" not in told(server, b"GET /" + b"a" * 1_000_000)


def test_a_request_that_drips_is_cut_off_at_its_deadline(
    server: BoundedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_server, "REQUEST_SECONDS", 0.5)
    begun = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", server.server_port)) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.settimeout(0.05)
        answer = None
        while answer is None and time.monotonic() < begun + 20:
            client.send(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1)
        assert answer == b"", "it hangs up"
    assert time.monotonic() - begun < 10


def test_requests_over_the_rate_are_told_so_and_later_ones_are_served(rated_server: BoundedServer) -> None:
    begun = time.monotonic()
    answers = [told(rated_server, b"GET /status HTTP/1.0\r\n\r\n") for _ in range(100)]
    served = sum(b"200 OK" in answer for answer in answers)
    allowed = agent_server.BURST + agent_server.REQUESTS_PER_SECOND * (time.monotonic() - begun)
    assert agent_server.BURST <= served <= allowed
    assert any(b"429 Too Many Requests" in answer for answer in answers)
    wait_until(lambda: ask_quietly(rated_server) == 200, 20)


def test_a_rate_lets_a_burst_through_and_then_so_many_per_second() -> None:
    now = 0.0
    rate = Rate(per_second=2, burst=3, now=lambda: now)
    assert [rate.allows() for _ in range(5)] == [True, True, True, False, False]
    now = 1.0
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert sum(rate.allows() for _ in range(10)) == 3


def ask_quietly(server: BoundedServer) -> int:
    try:
        return ask(server, "GET", "/status")[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_a_client_that_sends_rubbish_harms_nobody(server: BoundedServer, capfd: pytest.CaptureFixture[str]) -> None:
    for rubbish in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"A" * 100_000 + b"\r\n",
        b"GET /status HTTP/1.1\r\nx:" + b"y" * 70_000,
    ):
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(rubbish)
    assert ask(server, "GET", "/status")[0] == 200
    assert capfd.readouterr().err == ""


def test_silent_clients_are_bounded_and_dropped(server: BoundedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_server, "REQUEST_SECONDS", 0.5)
    address = ("127.0.0.1", server.server_port)
    silent = [socket.create_connection(address) for _ in range(MAX_CONNECTIONS)]
    refused = socket.create_connection(address, timeout=10)
    assert refused.recv(1) == b"", "one client more than there is room for is dropped at once"
    wait_until(lambda: ask_quietly(server) == 200, 20)
    for client in (*silent, refused):
        client.close()


def test_an_answer_is_never_larger_than_the_operator_reads() -> None:
    few = status_of(64, Progress(step=1, total_steps=2, epoch=0.5, loss=1.0, learning_rate=1e-4, tokens_per_second=1e6))
    assert PodStatus.model_validate_json(agent_server.fit(few)) == few, "64 GPUs in a pod fit"
    text = agent_server.fit(status_of(256))
    assert len(text.encode()) <= MAX_STATUS_BYTES
    kept = PodStatus.model_validate_json(text).ranks
    assert kept == status_of(256).ranks[: len(kept)]


def test_metrics_are_prometheus_text(server: BoundedServer) -> None:
    progress = Progress(step=3, total_steps=9, epoch=0.25, loss=0.125, learning_rate=2e-4, samples_per_second=12.5)
    lines = list(agent_server.metrics(status_of(1, progress), now=1_700_000_002.123456))
    assert "finetune_step 3" in lines
    assert "# TYPE finetune_loss gauge" in lines
    assert "finetune_loss 0.125" in lines
    assert "finetune_learning_rate 0.0002" in lines
    assert "finetune_samples_per_second 12.5" in lines
    assert not any("tokens" in line for line in lines), "what is not known is absent, not 0"
    assert lines[-1] == 'finetune_heartbeat_age_seconds{rank="0",phase="train"} 2.000'
    assert ask(server, "GET", "/metrics")[0] == 200


def test_it_answers_on_all_interfaces_when_no_address_is_given() -> None:
    server = agent_server.serve("", 0, lambda: status_of(1), REQUESTS.append)
    assert ask(server, "GET", "/status")[0] == 200
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("query", "requests"),
    [
        (f"checkpoint=before%20the%20%C3%BCpgrade&nonce={'n' * 32}", ["before the üpgrade"]),
        ("checkpoint=now&nonce=guessed", []),
        ("checkpoint=now", []),
        (f"checkpoint=&nonce={'n' * 32}", []),
        (f"checkpoint={'x' * 257}&nonce={'n' * 32}", []),
        (f"nonce={'n' * 32}", []),
        ("checkpoint=%FF&nonce=%FF", []),
    ],
)
def test_a_checkpoint_is_asked_for_by_whoever_knows_the_attempt(
    server: BoundedServer, query: str, requests: list[str]
) -> None:
    REQUESTS.clear()
    code, body = ask(server, "GET", f"/status?{query}")
    assert (code, PodStatus.model_validate_json(body).index) == (200, 0)
    assert requests == REQUESTS


def test_the_newest_checkpoint_is_measured() -> None:
    report = CheckpointReport(step=40, time=90.0, bytes=2048, save_seconds=1.5)
    lines = list(agent_server.metrics(status_of(1).model_copy(update={"checkpoint": report}), now=100.0))
    told = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("finetune_ch")}
    assert told == {
        "finetune_checkpoint_step": 40,
        "finetune_checkpoint_age_seconds": 10,
        "finetune_checkpoint_bytes": 2048,
        "finetune_checkpoint_save_seconds": 1.5,
    }
