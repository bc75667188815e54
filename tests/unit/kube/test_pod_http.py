"""Requests to a pod that is hostile: the addresses that are asked, and the answers that are accepted."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_operator.kube.pod_http import PodHttp, pod_url

LIMIT = 16 * 1024
Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pod(speak: Speak) -> AsyncIterator[str]:
    """Run a pod that answers each connection with `speak`, and yield its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await speak(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/status"
    finally:
        server.close()


def saying(data: bytes) -> Speak:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return speak


def for_ever(data: bytes, pause: float = 0.0, begin: bytes = b"") -> Speak:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause)

    return speak


async def asked(speak: Speak, timeout: float = 0.5) -> bytes | None:
    """Return the answer that is accepted, and assert that waiting for it ended soon after the timeout."""
    http = PodHttp()
    async with pod(speak) as url:
        begun = time.monotonic()
        answer = await http.get(url, LIMIT, timeout)
        assert time.monotonic() - begun < timeout + 2
        await http.close()
        return answer


async def test_a_plain_answer_is_heard() -> None:
    assert await asked(saying(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")) == b"{}"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(code: int) -> None:
    asked_for: list[bytes] = []

    async def note(writer: asyncio.StreamWriter) -> None:
        asked_for.append(b"")
        await saying(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")(writer)

    async with pod(note) as elsewhere:
        head = f"HTTP/1.0 {code} Moved\r\nLocation: {elsewhere}\r\nContent-Length: 2\r\n\r\n{{}}"
        assert await asked(saying(head.encode())) is None
    assert asked_for == []


@pytest.mark.parametrize("code", [100, 101, 204, 206, 400, 401, 404, 407, 500, 999])
async def test_only_a_200_is_an_answer(code: int) -> None:
    assert await asked(saying(f"HTTP/1.1 {code} So\r\nContent-Length: 2\r\n\r\n{{}}".encode())) is None


@pytest.mark.parametrize(
    "head", [b"", b"Content-Length: 1000000000000\r\n", b"Content-Length: 16385\r\n", b"Transfer-Encoding: chunked\r\n"]
)
async def test_an_endless_body_is_dropped(head: bytes) -> None:
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n" if b"chunked" in head else b"x" * 4096
    assert await asked(for_ever(piece, begin=b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")) is None


async def test_a_body_that_drips_is_dropped_at_the_deadline() -> None:
    assert await asked(for_ever(b"x", 0.05, b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n")) is None


async def test_headers_that_drip_are_dropped_at_the_deadline() -> None:
    assert await asked(for_ever(b"x", 0.05, b"HTTP/1.0 200 OK\r\nx: ")) is None


async def test_headers_without_end_are_dropped() -> None:
    assert await asked(for_ever(b"x: y\r\n", begin=b"HTTP/1.0 200 OK\r\n")) is None
    assert await asked(for_ever(b"x" * 1000, begin=b"HTTP/1.0 200 OK\r\nx: ")) is None
    assert await asked(for_ever(b"HTTP/1.1 100 Continue\r\n\r\n")) is None


async def test_a_pod_that_says_nothing_is_dropped_at_the_deadline() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    assert await asked(silent) is None


async def test_a_compressed_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    assert len(bomb) < LIMIT
    head = b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    assert await asked(saying(head + bomb)) == bomb, "it is as it came, and no JSON"


async def test_a_cookie_is_not_kept() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    http = PodHttp()
    for _ in range(2):
        port = server.sockets[0].getsockname()[1]
        assert await http.get(f"http://127.0.0.1:{port}/status", LIMIT, 5) == b"{}"
    await http.close()
    server.close()
    assert not any(b"Cookie" in head for head in heads)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await asked(saying(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")) == b"{}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n"]),
    rest=st.one_of(
        st.binary(max_size=400),
        st.lists(
            st.sampled_from([b"Set-Cookie: ", b"Location: ", b"Content-Length: ", b"-1", b"\xff", b"\r\n", b"\0"]),
            max_size=12,
        ).map(b"".join),
    ),
)  # fmt: skip
def test_whatever_bytes_a_pod_sends_nothing_is_raised(start: bytes, rest: bytes) -> None:
    answer = asyncio.run(asked(saying(start + rest)))
    assert answer is None or len(answer) <= LIMIT


# ---- addresses ------------------------------------------------------------------------------------------------------


def at(ip: str | None, host_ip: str = "192.0.2.1", **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"podIP": ip, "hostIP": host_ip} if ip else {}}


@pytest.mark.parametrize(
    ("ip", "url"),
    [
        ("10.1.2.3", "http://10.1.2.3:8471/status"),
        ("100.64.0.7", "http://100.64.0.7:8471/status"),
        ("240.0.0.9", "http://240.0.0.9:8471/status"),  # some clusters use such addresses for pods
        ("fd00::7", "http://[fd00::7]:8471/status"),
        ("2001:db8::7", "http://[2001:db8::7]:8471/status"),
    ],
)
def test_a_pod_is_dialled_at_its_address(ip: str, url: str) -> None:
    assert pod_url(at(ip), 8471, "/status") == url


@pytest.mark.parametrize(
    "ip",
    [
        None, "", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254",
        "fe80::1", "fe80::1%eth0", "fd00::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
        "localhost", "metadata.internal", "10.0.0.1:80", "10.0.0.1/x", "10.0.0.1@evil", "2130706433",
        "0x7f.1", "010.0.0.1",
    ],
)  # fmt: skip
def test_an_address_that_is_no_pods_is_not_dialled(ip: str | None) -> None:
    assert pod_url(at(ip), 8471, "/status") is None


def test_a_pod_on_its_nodes_network_is_not_dialled() -> None:
    assert pod_url(at("10.1.2.3", hostNetwork=True), 8471, "/status") is None
    assert pod_url(at("10.1.2.3", host_ip="10.1.2.3"), 8471, "/status") is None


def test_on_a_laptop_loopback_alone_is_dialled() -> None:
    assert pod_url(at("127.0.0.5"), 8471, "/status", on_loopback=True) == "http://127.0.0.5:8471/status"
    assert pod_url(at("10.1.2.3"), 8471, "/status", on_loopback=True) is None
