"""The operator's own HTTP endpoints: /healthz and /readyz for the kubelet's probes, /metrics for Prometheus.

They are answered on the event loop on which the reconciles run, so that any answer proves that it is not blocked. The
server starts before the first request to the API server, so that an operator that waits for the API server can report
it.
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
"""Seconds after which a reconcile counts as stuck.

Every call to the API server and to an agent has a far shorter deadline.
"""
SHUTDOWN = 1.0
"""Seconds in which open requests may be answered when the operator ends."""


logger = logging.getLogger(__name__)


@dataclass
class Health:
    """The state that the probes report."""

    not_ready: str | None = "FineTuneJobs have not been listed yet"
    """Why the operator is not ready, as a sentence; None if it is ready."""
    longest: Callable[[], tuple[object, float] | None] = lambda: None
    """A function that returns the job whose reconcile has been running longest, and its seconds; None if none runs."""

    no_lease: str | None = None
    """Why the Lease can be neither held nor waited for, as a sentence; None if one of both is possible."""
    told: str | None = None
    """The sentence that was logged last."""

    def blocked(self, sentence: str) -> None:
        """Report that the informer cannot start or has ended; a new sentence is logged."""
        if sentence != self.told:
            logger.error(sentence)
        self.not_ready = self.told = sentence

    def leaderless(self, sentence: str | None) -> None:
        """Report that the Lease can be neither held nor waited for, or None if it can; a new sentence is logged."""
        if sentence and sentence != self.no_lease:
            logger.error(sentence)
        self.no_lease = sentence

    @property
    def unready(self) -> str | None:
        """Why the operator could not work, as a sentence; None if it could. A standby is ready."""
        return self.not_ready or self.no_lease

    @property
    def stuck(self) -> str | None:
        """A sentence about a reconcile that hangs; None if none does."""
        longest = self.longest()
        if longest is None or longest[1] <= STUCK_AFTER:
            return None
        return f"the reconcile of {longest[0]} has been running for {duration(longest[1])}"


def application(health: Health, registry: CollectorRegistry) -> web.Application:
    """Return the application that answers GET on three paths, and 404 on any other path."""

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
    """Close the connection after the response.

    A connection that is kept open is a task, and kopf waits seconds for every task that it finds when it ends.
    """
    response.force_close()
    response.headers["Connection"] = "close"  # force_close comes too late here to set the header


@asynccontextmanager
async def serve(served: web.Application, port: int) -> AsyncIterator[None]:
    """Serve the application on all addresses until the block ends. Raises OSError if the port cannot be opened."""
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
