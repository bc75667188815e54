"""A watch whose connections end, break or are too old."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.protocol import CONFIGMAPS, ApiError, Event

from .conftest import FakeServer, config, listed, status, streamed, text


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.kube.watching.FIRST_DELAY", 0.001)
    monkeypatch.setattr("finetune_operator.kube.watching.LONGEST_DELAY", 0.001)
    monkeypatch.setattr("finetune_operator.kube.transport.RETRY_DELAYS", ())


async def first(server: FakeServer, count: int) -> list[tuple[str, str, str]]:
    """Return (type, name, resourceVersion) of the first events."""
    events: list[Event] = []
    async with asyncio.timeout(10):
        async for event in server.cluster.watch(CONFIGMAPS, "lab"):
            events.append(event)
            if len(events) == count:
                break
    return [(e.type, e.object["metadata"]["name"], e.object["metadata"]["resourceVersion"]) for e in events]


def versions(server: FakeServer) -> list[str]:
    """Return the resourceVersion with which each stream was requested, or "list" for a list."""
    return [query.get("resourceVersion", "list") for _, _, query, _ in server.requests]


async def test_a_stream_that_ends_goes_on_from_the_last_version(server: FakeServer) -> None:
    server.says(
        listed("5", config("a", "1")),
        streamed(("MODIFIED", config("a", "6")), ("BOOKMARK", config("", "8"))),
        streamed(("DELETED", config("a", "9"))),
    )
    assert await first(server, 3) == [("ADDED", "a", "1"), ("MODIFIED", "a", "6"), ("DELETED", "a", "9")]
    assert versions(server) == ["list", "5", "8"]


@pytest.mark.parametrize("broken", [status(503), status(429), status(500), text(502, "proxy")])
async def test_a_stream_that_fails_goes_on_from_the_last_version(server: FakeServer, broken: object) -> None:
    server.says(
        listed("5", config("a", "1")),
        broken,  # type: ignore[arg-type]
        broken,  # type: ignore[arg-type]
        streamed(("MODIFIED", config("a", "6"))),
    )
    assert await first(server, 2) == [("ADDED", "a", "1"), ("MODIFIED", "a", "6")]
    assert versions(server) == ["list", "5", "5", "5"]


@pytest.mark.parametrize(
    "gone", [status(410, "Expired"), streamed(("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))]
)
async def test_after_a_gap_the_differences_are_told(server: FakeServer, gone: object) -> None:
    server.says(
        listed("5", config("changed", "1"), config("same", "2"), config("vanished", "3"), config("again", "4", "old")),
        streamed(("MODIFIED", config("vanished", "6"))),
        gone,  # type: ignore[arg-type]
        listed("20", config("changed", "12"), config("same", "2"), config("new", "13"), config("again", "14", "new")),
        streamed(("MODIFIED", config("new", "21"))),
    )
    events = await first(server, 11)
    assert events[:5] == [
        ("ADDED", "again", "4"),
        ("ADDED", "changed", "1"),
        ("ADDED", "same", "2"),
        ("ADDED", "vanished", "3"),
        ("MODIFIED", "vanished", "6"),
    ]
    assert sorted(events[5:7]) == [("DELETED", "again", "4"), ("DELETED", "vanished", "6")]
    assert sorted(events[7:10]) == [("ADDED", "again", "14"), ("ADDED", "new", "13"), ("MODIFIED", "changed", "12")]
    assert events[10] == ("MODIFIED", "new", "21")
    assert versions(server) == ["list", "5", "6", "list", "20"]


async def test_a_line_may_be_long_and_come_in_pieces(server: FakeServer) -> None:
    large = config("large", "6") | {"data": {"key": "x" * 1_000_000}}
    server.says(listed("5"), streamed(("ADDED", large), ("ADDED", config("next", "7"))))
    assert await first(server, 2) == [("ADDED", "large", "6"), ("ADDED", "next", "7")]


async def test_a_watch_that_may_not_begin_says_so(server: FakeServer) -> None:
    server.says(status(403, "Forbidden", "you may not"))
    with pytest.raises(ApiError, match="you may not"):
        await first(server, 1)


async def test_a_server_that_is_down_at_first_is_an_error_and_later_is_waited_for(server: FakeServer) -> None:
    server.says(status(503, "ServiceUnavailable", "not yet"))
    with pytest.raises(ApiError, match="not yet"):
        await first(server, 1)
    server.requests.clear()
    server.says(
        listed("5", config("a", "1")),
        status(410, "Expired"),
        status(503),
        listed("9", config("a", "8")),
        streamed(),
    )
    assert await first(server, 2) == [("ADDED", "a", "1"), ("MODIFIED", "a", "8")]


async def test_access_that_is_taken_away_ends_the_watch(server: FakeServer) -> None:
    server.says(listed("5", config("a", "1")), status(401, "Unauthorized", "who are you?"))
    with pytest.raises(ApiError, match="who are you"):
        await first(server, 2)
