"""The agent's HTTP server, which only answers `GET /status` for the operator and `GET /metrics` for Prometheus.

Each answer is read from the rank files when it is requested. Any client that reaches the port may send anything.
Therefore a request has a deadline and a maximum size, a connection serves one request, all clients together have a rate
limit, and a client can only occupy one of a bounded number of threads for a few seconds.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from finetune_trainer.contract import (
    MAX_REQUEST_CHARACTERS,
    MAX_STATUS_BYTES,
    NONCE_PARAMETER,
    REQUEST_PARAMETER,
    STATUS_PATH,
    PodStatus,
)

METRICS_PATH = "/metrics"
MAX_CONNECTIONS = 32
MAX_HEAD_BYTES = 8 * 1024
"""The maximum size of a request's first line and headers together."""
REQUEST_SECONDS = 5.0
"""Seconds within which a request must arrive, and within which its answer must be received."""
REQUESTS_PER_SECOND = 20.0
"""The long-term rate of all clients together. The operator sends a request at most every two seconds, Prometheus less
often."""
BURST = 40
"""The number of requests that may arrive at once after a pause."""
TOO_MANY = b"HTTP/1.0 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class Rate:
    """A rate limit that allows a burst after a pause."""

    def __init__(self, per_second: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._now = now
        self._left = self._burst
        self._at = now()

    def allows(self) -> bool:
        """Return whether one more request may come now. This is not thread-safe."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RequestStream(io.RawIOBase):
    """The data that a client sends, limited in bytes and by a deadline.

    Raises http.client.LineTooLong, which http.server answers with 431, and TimeoutError, on which http.server closes
    the connection.
    """

    def __init__(self, connection: socket.socket, max_bytes: int, seconds: float) -> None:
        self._connection = connection
        self._left = max_bytes
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            raise LineTooLong("request")
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        read = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= read
        return read

    def allow(self, more_bytes: int) -> None:
        """Allow the client to send that many more bytes."""
        self._left += more_bytes


class BoundedServer(ThreadingHTTPServer):
    """A server with at most `MAX_CONNECTIONS` at a time and a limited rate of requests.

    Further connections are closed without an answer. Requests above the rate get the status 429.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._rate = Rate(REQUESTS_PER_SECOND, BURST)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind queries the DNS for the name of the address, which may take arbitrarily long.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._rate.allows():
            # This is the only thread that accepts connections, so it must not block.
            request.setblocking(False)
            with contextlib.suppress(OSError):
                request.send(TOO_MANY)
            self.shutdown_request(request)
        elif self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client may disconnect at any time."""


class QuietHandler(BaseHTTPRequestHandler):
    """Handles one request of a bounded size. It does not log, because the pod's log belongs to the training."""

    server_version = "finetune-agent"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.stream = RequestStream(self.connection, MAX_HEAD_BYTES, REQUEST_SECONDS)
        self.rfile = io.BufferedReader(self.stream)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a status alone, because http.server's own error pages repeat what the client sent.

        http.server reports a method that no handler has as "not implemented"; the answer is then 405.
        """
        self.close_connection = True
        is_method = code == HTTPStatus.NOT_IMPLEMENTED
        self.answer(HTTPStatus.METHOD_NOT_ALLOWED if is_method else HTTPStatus(code))

    def answer(self, status: HTTPStatus, content_type: str = "text/plain; charset=utf-8", body: str = "") -> None:
        data = body.encode()
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(
    address: str, port: int, status: Callable[[], PodStatus], request_checkpoint: Callable[[str], None]
) -> BoundedServer:
    """Serve at address:port from a thread, until `shutdown`. Raises OSError.

    The address "" means all interfaces. A client that knows the attempt's nonce may request a checkpoint in the status
    query; `request_checkpoint` is called with the text of the request.
    """

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == STATUS_PATH:
                answer = status()
                if request := asked_for(query, answer.nonce):
                    request_checkpoint(request)
                self.answer(HTTPStatus.OK, "application/json", fit(answer))
            elif path == METRICS_PATH:
                text = "".join(line + "\n" for line in metrics(status(), time.time()))
                self.answer(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", text)
            else:
                self.answer(HTTPStatus.NOT_FOUND)

    server = BoundedServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, name="agent-server", daemon=True).start()
    return server


def asked_for(query: str, nonce: str) -> str | None:
    """Return the checkpoint request in the query of a status path, or None if there is no valid one.

    A valid request has the attempt's nonce and at most `MAX_REQUEST_CHARACTERS`.
    """
    fields = dict(parse_qsl(query))
    request = fields.get(REQUEST_PARAMETER, "")
    ours = secrets.compare_digest(fields.get(NONCE_PARAMETER, "").encode(), nonce.encode())
    return request if ours and 0 < len(request) <= MAX_REQUEST_CHARACTERS else None


def fit(status: PodStatus, limit: int = MAX_STATUS_BYTES) -> str:
    """Return JSON of at most `limit` bytes, which is enough for about 70 ranks. The last ranks are left out first."""
    while len(text := status.to_json()) > limit and status.ranks:
        status = status.model_copy(update={"ranks": status.ranks[:-1]})
    return text


def metrics(status: PodStatus, now: float) -> Iterator[str]:
    """Yield the lines of the metrics in Prometheus text format 0.0.4."""
    gauges: list[tuple[str, float | None, str]] = []
    if progress := status.progress:
        gauges += [
            ("finetune_step", progress.step, "Optimizer steps done."),
            ("finetune_total_steps", progress.total_steps, "Optimizer steps of the run."),
            ("finetune_epoch", progress.epoch, "Passes over the data."),
            ("finetune_loss", progress.loss, "Mean loss of the last step."),
            ("finetune_learning_rate", progress.learning_rate, "Learning rate of the last step."),
            ("finetune_tokens_per_second", progress.tokens_per_second, "Tokens, over all ranks."),
            ("finetune_samples_per_second", progress.samples_per_second, "Rows, over all ranks."),
            ("finetune_skipped_steps", progress.skipped_steps, "Steps of the run that were not finite, and dropped."),
            ("finetune_loss_spikes", progress.loss_spikes, "Steps of the run with a loss far above those before."),
        ]
    if checkpoint := status.checkpoint:
        gauges += [
            ("finetune_checkpoint_step", checkpoint.step, "Optimizer steps in the newest checkpoint."),
            ("finetune_checkpoint_age_seconds", now - checkpoint.time, "Time since the newest checkpoint."),
            ("finetune_checkpoint_bytes", checkpoint.bytes, "Size of the newest checkpoint."),
            ("finetune_checkpoint_save_seconds", checkpoint.save_seconds, "What writing it has taken."),
        ]
    for name, value, help_ in gauges:
        if value is not None:
            yield from (f"# HELP {name} {help_}", f"# TYPE {name} gauge", f"{name} {value:.10g}")
    if status.ranks:
        name = "finetune_heartbeat_age_seconds"
        yield from (f"# HELP {name} Time since a rank last said that it lives.", f"# TYPE {name} gauge")
        for rank in status.ranks:
            yield f'{name}{{rank="{rank.rank}",phase="{rank.phase}"}} {now - rank.heartbeat:.3f}'
