"""The operator's own HTTP endpoints: /healthz and /readyz for the kubelet's probes, /metrics for Prometheus.

They are answered on the event loop on which the reconciles run, so that any answer proves that it is not blocked. The
server starts before anything talks to the API server: an operator that waits for it can say so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from finetune_operator.core.times import duration

STUCK_AFTER = 300.0
"""Seconds. Every call to the API server and to an agent has a deadline far below."""
SHUTDOWN = 1.0
"""Seconds that an answer under way may take when the operator ends."""


logger = logging.getLogger(__name__)


@dataclass
class Health:
    """What the probes are told."""

    not_ready: str | None = "FineTuneJobs have not been listed yet"
    """A sentence; None: ready."""
    longest: Callable[[], tuple[object, float] | None] = lambda: None
    """The job whose reconcile has been running longest, and for how many seconds; None: no reconcile is running."""

    no_lease: str | None = None
    """Why the Lease can be neither had nor waited for; a sentence. None: one of both is done."""
    told: str | None = None
    """The sentence that was logged last."""

    def blocked(self, sentence: str) -> None:
        """Something stands in the way; it is logged when it is new."""
        if sentence != self.told:
            logger.error(sentence)
        self.not_ready = self.told = sentence

    def leaderless(self, sentence: str | None) -> None:
        """Something stands in the way of leading, and of waiting to; it is logged when it is new. None: nothing."""
        if sentence and sentence != self.no_lease:
            logger.error(sentence)
        self.no_lease = sentence

    @property
    def unready(self) -> str | None:
        """A sentence, if the operator could not work. One that waits for another to give up the lead is ready."""
        return self.not_ready or self.no_lease

    @property
    def stuck(self) -> str | None:
        """A sentence, if a reconcile hangs."""
        longest = self.longest()
        if longest is None or longest[1] <= STUCK_AFTER:
            return None
        return f"the reconcile of {longest[0]} has been running for {duration(longest[1])}"


def application(health: Health, registry: CollectorRegistry) -> web.Application:
    """GET of three paths; 404 for any other."""

    async def healthz(request: web.Request) -> web.Response:
        return _verdict(health.stuck)

    async def readyz(request: web.Request) -> web.Response:
        return _verdict(health.unready)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    made = web.Application()
    made.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    made.on_response_prepare.append(_close)
    return made


def _verdict(fault: str | None) -> web.Response:
    return web.Response(status=503, text=f"{fault}\n") if fault else web.Response(text="ok\n")


async def _close(request: web.Request, response: web.StreamResponse) -> None:
    """A connection that is kept is a task, and kopf waits seconds for every task that it finds when it ends."""
    response.force_close()
    response.headers["Connection"] = "close"  # force_close comes too late here to say so


@asynccontextmanager
async def serve(served: web.Application, port: int) -> AsyncIterator[None]:
    """On all addresses, until the block ends. Raises OSError when the port cannot be opened."""
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
