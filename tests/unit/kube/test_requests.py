"""Requests to the API server: what is sent, what is retried, and which error an answer becomes."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from aiohttp import ClientTimeout
from kubernetes.aio import client

from finetune_operator.kube.client import ConfigurationError, KubeCluster
from finetune_operator.kube.transport import Transport
from finetune_operator.protocol import (
    CONFIGMAPS,
    FINETUNEJOBS,
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)

from .conftest import FakeServer, config, listed, ok, status, text


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.kube.transport.RETRY_DELAYS", (0.0, 0.0))


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", InvalidError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (422, "Invalid", InvalidError),
        (401, "Unauthorized", ApiError),
        (500, "InternalError", ApiError),
    ],
)
async def test_an_answer_becomes_the_protocols_error(
    server: FakeServer, code: int, reason: str, expected: type[ApiError]
) -> None:
    server.says(status(code, reason, "a sentence"))
    with pytest.raises(ApiError) as caught:
        await server.cluster.create(CONFIGMAPS, config("settings", "1"))
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.reason, caught.value.message) == (code, reason, "a sentence")


async def test_an_answer_that_is_not_the_api_servers_is_quoted(server: FakeServer) -> None:
    server.says(text(502, "<html>bad gateway</html>"))
    with pytest.raises(ApiError, match="bad gateway"):
        await server.cluster.get(CONFIGMAPS, "lab", "settings")


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_a_read_is_tried_again_when_the_server_stumbles(server: FakeServer, code: int) -> None:
    server.says(status(code), status(code), ok(config("settings", "1")))
    assert (await server.cluster.get(CONFIGMAPS, "lab", "settings"))["metadata"]["name"] == "settings"
    assert len(server.requests) == 3


async def test_a_read_is_given_up_in_the_end(server: FakeServer) -> None:
    server.says(status(503, "ServiceUnavailable"))
    with pytest.raises(ApiError) as caught:
        await server.cluster.get(CONFIGMAPS, "lab", "settings")
    assert caught.value.status == 503
    assert len(server.requests) == 3


async def test_a_write_is_tried_again_on_429_only(server: FakeServer) -> None:
    server.says(status(429, "TooManyRequests"), ok(config("settings", "1")))
    await server.cluster.create(CONFIGMAPS, config("settings", "1"))
    assert len(server.requests) == 2
    server.says(status(500, "InternalError"))
    with pytest.raises(ApiError):
        await server.cluster.create(CONFIGMAPS, config("settings", "1"))
    assert len(server.requests) == 3


async def test_retry_after_is_obeyed(server: FakeServer) -> None:
    server.says(status(429, **{"Retry-After": "1"}), ok(config("settings", "1")))
    started = time.monotonic()
    await server.cluster.get(CONFIGMAPS, "lab", "settings")
    assert time.monotonic() - started >= 1


async def test_a_server_that_does_not_answer_is_status_0(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(request: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("finetune_operator.kube.transport.REQUEST_TIMEOUT", ClientTimeout(total=0.1))
    server.says(never)  # type: ignore[arg-type]  # it never gets so far as to answer
    with pytest.raises(ApiError) as caught:
        await server.cluster.get(CONFIGMAPS, "lab", "settings")
    assert caught.value.status == 0


async def test_a_server_that_is_not_there_is_status_0() -> None:
    cluster = KubeCluster(Transport(client.Configuration(host="http://127.0.0.1:9"), "default"))
    with pytest.raises(ApiError) as caught:
        await cluster.get(CONFIGMAPS, "lab", "settings")
    assert (caught.value.status, caught.value.reason) == (0, "Unreachable")
    await cluster.close()


async def test_delete_is_in_the_background_and_only_of_that_uid(server: FakeServer) -> None:
    server.says(ok({}))
    await server.cluster.delete(FINETUNEJOBS, "lab", "clauses", uid="u-1")
    method, path, _, body = server.requests[0]
    assert (method, path) == ("DELETE", "/apis/finetune.dev/v1alpha1/namespaces/lab/finetunejobs/clauses")
    assert body["propagationPolicy"] == "Background"
    assert body["preconditions"] == {"uid": "u-1"}


async def test_put_is_of_the_whole_object_as_it_was_read_and_takes_no_unknown_field(server: FakeServer) -> None:
    server.says(ok(config("settings", "2")))
    assert (await server.cluster.put(CONFIGMAPS, config("settings", "1")))["metadata"]["resourceVersion"] == "2"
    path = "/api/v1/namespaces/lab/configmaps/settings"
    assert server.requests == [("PUT", path, {"fieldValidation": "Strict"}, config("settings", "1"))]


async def test_put_of_what_was_not_read_is_refused_before_anything_is_sent(server: FakeServer) -> None:
    with pytest.raises(InvalidError, match="resourceVersion: must be specified"):
        await server.cluster.put(CONFIGMAPS, config("settings", ""))
    assert server.requests == []


async def test_put_is_not_tried_again_when_it_may_have_taken_effect(server: FakeServer) -> None:
    server.says(status(500, "InternalError"), ok(config("settings", "2")))
    with pytest.raises(ApiError):
        await server.cluster.put(CONFIGMAPS, config("settings", "1"))
    assert len(server.requests) == 1


async def test_a_retry_after_of_minutes_is_not_waited_for(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.kube.transport.LONGEST_RETRY_AFTER", 0.01)
    server.says(status(429, **{"Retry-After": "3600"}), ok(config("settings", "1")))
    async with asyncio.timeout(5):
        await server.cluster.get(CONFIGMAPS, "lab", "settings")
    assert len(server.requests) == 2


async def test_pages_of_a_list_are_put_together_in_order(server: FakeServer) -> None:
    server.says(listed("7", config("b", "2"), following="more"), listed("7", config("a", "1")))
    found = await server.cluster.list(CONFIGMAPS, "lab", {"team": "a", "tier": "b"})
    assert [obj["metadata"]["name"] for obj in found] == ["a", "b"]
    assert [query for _, _, query, _ in server.requests] == [
        {"labelSelector": "team=a,tier=b", "limit": "500"},
        {"labelSelector": "team=a,tier=b", "limit": "500", "continue": "more"},
    ]


async def test_a_list_that_expires_between_its_pages_starts_again(server: FakeServer) -> None:
    page = listed("7", config("a", "1"), following="more")
    server.says(page, status(410, "Expired"), listed("9", config("c", "3")))
    assert [obj["metadata"]["name"] for obj in await server.cluster.list(CONFIGMAPS, "lab")] == ["c"]


async def test_a_kubeconfig_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/kubeconfig")
    with pytest.raises(ConfigurationError, match="/no/such/kubeconfig"):
        await KubeCluster.connect()


async def test_a_context_that_is_not_there_is_said(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"{tmp_path}/config"
    with open(file, "w") as kubeconfig:  # noqa: ASYNC230  # two lines
        kubeconfig.write("{apiVersion: v1, kind: Config, clusters: [], contexts: [], users: []}")
    monkeypatch.setenv("KUBECONFIG", file)
    with pytest.raises(ConfigurationError, match="elsewhere"):
        await KubeCluster.connect(context="elsewhere")


@pytest.mark.parametrize("body", ["<html>log in</html>", "[]", "3", "{}", '{"items": 3}'])
async def test_a_success_that_is_not_the_api_servers_is_told(server: FakeServer, body: str) -> None:
    server.says(text(200, body))
    with pytest.raises(ApiError, match="is no API server; correct `server` in the kubeconfig"):
        await server.cluster.list(CONFIGMAPS, "lab")


CLUSTER = {"server": "https://127.0.0.1:1"}


def kubeconfig(cluster: object = CLUSTER, user: object = None) -> str:
    contexts = [{"name": "a", "context": {"cluster": "a", "user": "a"}}]
    users = [{"name": "a", "user": user or {"token": "t"}}]
    top = {"contexts": contexts, "clusters": [{"name": "a", "cluster": cluster}], "users": users}
    return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "a", **top})


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"- a",
        b"",
        b"text",
        kubeconfig({**CLUSTER, "certificate-authority-data": "no base 64!"}).encode(),
        kubeconfig({**CLUSTER, "certificate-authority-data": "bm8gUEVN"}).encode(),
        kubeconfig(user={"client-certificate-data": "bm8gUEVN", "client-key-data": "bm8gUEVN"}).encode(),
        kubeconfig("a name").encode(),
    ],
    ids=["binary", "a list", "empty", "text", "bad base 64", "no PEM", "no certificate", "no cluster"],
)
async def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        await KubeCluster.connect(str(path))
    assert "\n" not in str(caught.value)
    assert "None" not in str(caught.value)


async def test_a_token_that_no_header_holds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig(user={"token": "two\nlines"}))
    cluster = await KubeCluster.connect(str(path))
    with pytest.raises(ApiError, match="the API server was not reached"):
        await cluster.list(CONFIGMAPS, "lab")
    await cluster.close()
