"""What the agent answers over HTTP: `GET /status` to the operator, `GET /metrics` to Prometheus, and nothing else.

Answers come from the rank files at the moment of asking. Whoever reaches the port may send what he likes: a request has
a deadline and a size, a connection is for one request, requests of all clients together have a rate, and a client costs
one of a bounded number of threads for a few seconds, and nothing else.
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
"""Of a request's first line and headers together."""
REQUEST_SECONDS = 5.0
"""In which a request has to come, and its answer to be taken."""
REQUESTS_PER_SECOND = 20.0
"""Of all clients together, in the long run: the operator asks every other second at most, Prometheus less often."""
BURST = 40
"""Requests that may come at once after a pause."""
TOO_MANY = b"HTTP/1.0 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class Rate:
    """Lets through so many per second, and a burst after a pause."""

    def __init__(self, per_second: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._now = now
        self._left = self._burst
        self._at = now()

    def allows(self) -> bool:
        """Whether one more may come now. Not for several threads."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RequestStream(io.RawIOBase):
    """What a client sends: at most so many bytes, and until a deadline.

    Raises http.client.LineTooLong, which http.server answers with 431, and TimeoutError, at which it hangs up."""

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
        """A body of that size may follow."""
        self._left += more_bytes


class BoundedServer(ThreadingHTTPServer):
    """Serves at most `MAX_CONNECTIONS` at a time, more are closed unanswered; and as many as `Rate` allows, more are
    told so."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._rate = Rate(REQUESTS_PER_SECOND, BURST)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for the name of the address, which may take as long as the DNS likes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._rate.allows():
            # Here, in the one thread that accepts: it must not wait for anybody.
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
        """A client that went away is no event."""


class QuietHandler(BaseHTTPRequestHandler):
    """One request of a bounded size. Answers and does not log: the pod's log is the training's."""

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
        """http.server's own answers are pages that repeat what the client sent. It calls a method that no handler has
        not implemented."""
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
    """Answer at address:port (address "" is all interfaces) from a thread, until `shutdown`. Raises OSError.

    Whoever knows the attempt's nonce may ask for a checkpoint with the status: `request_checkpoint` is given the words.
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
    """The request for a checkpoint that a status path's query makes; None without the attempt's nonce, or when it is
    too long."""
    fields = dict(parse_qsl(query))
    request = fields.get(REQUEST_PARAMETER, "")
    ours = secrets.compare_digest(fields.get(NONCE_PARAMETER, "").encode(), nonce.encode())
    return request if ours and 0 < len(request) <= MAX_REQUEST_CHARACTERS else None


def fit(status: PodStatus, limit: int = MAX_STATUS_BYTES) -> str:
    """JSON of at most `limit` bytes (about 70 ranks): the last ranks are left out, the first are never wrong."""
    while len(text := status.to_json()) > limit and status.ranks:
        status = status.model_copy(update={"ranks": status.ranks[:-1]})
    return text


def metrics(status: PodStatus, now: float) -> Iterator[str]:
    """Prometheus text format 0.0.4, a line at a time."""
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
