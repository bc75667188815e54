"""An API server over HTTP whose answers the test chooses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from finetune_operator.kube.client import KubeCluster
from finetune_operator.kube.transport import Transport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeServer:
    """A server that gives its answers in turn, and the last one for all further requests."""

    def __init__(self) -> None:
        self.answers: list[Handler] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        """The method, path, query and body of each request."""
        self.cluster: KubeCluster

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.requests.append((request.method, request.path, dict(request.query), json.loads(body) if body else None))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    def says(self, *answers: Handler) -> None:
        self.answers = list(answers)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app) as running:
        transport = Transport(client.Configuration(host=str(running.make_url("")).rstrip("/")), "default")
        fake.cluster = KubeCluster(transport)
        yield fake
        await fake.cluster.close()


def status(code: int, reason: str = "", message: str = "", **headers: str) -> Handler:
    """Return an error in the format of the API server."""

    async def answer(request: web.Request) -> web.Response:
        body = {"kind": "Status", "code": code, "reason": reason, "message": message}
        return web.json_response(body, status=code, headers=headers)

    return answer


def text(code: int, body: str) -> Handler:
    """Return an answer that is not JSON."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=code, text=body)

    return answer


def ok(body: Any) -> Handler:
    """Return a successful answer."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def listed(version: str, *objects: dict[str, Any], following: str = "") -> Handler:
    """Return a list, or one page of it."""
    return ok({"metadata": {"resourceVersion": version, "continue": following}, "items": list(objects)})


def streamed(*events: tuple[str, dict[str, Any]]) -> Handler:
    """Return a watch that ends after these events."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, obj in events:
            await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        return response

    return answer


def config(name: str, version: str, uid: str | None = None) -> dict[str, Any]:
    """Return a ConfigMap as the API server stores it."""
    metadata = {"name": name, "namespace": "lab", "uid": uid or f"uid-{name}", "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
