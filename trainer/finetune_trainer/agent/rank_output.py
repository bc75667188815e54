"""Passes the ranks' output line by line to the pod's log, and keeps the last lines for the termination message.

Credentials are removed from every line. Each rank's stdout and stderr is a pipe, so lines of different ranks never mix
and nothing is written to a disk that could fill up. One thread reads all pipes. The agent itself holds every pipe open
for writing until `close`; a pipe ends when both the agent and the rank have closed it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque
from collections.abc import Iterable
from typing import BinaryIO

from finetune_trainer.agent.rank_processes import STORE
from finetune_trainer.agent.redaction import KeyBlocks, Redact
from finetune_trainer.contract import MAX_LOG_LINES

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024
"""The length above which a line is passed on in pieces."""
MAX_KEPT_CHARACTERS = 500
"""The length to which a line is cut for the termination message."""
MAX_TAIL_BYTES = 1024 * 1024
"""The size of the log that is kept for the workspace."""


class Tail:
    """The last lines of a stream, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes

    def append(self, line: str) -> None:
        self._lines.append(line)
        self._bytes += len(line.encode()) + 1
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._lines.popleft().encode()) + 1

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines.copy())


class Stream:
    """A pipe whose bytes are split into lines."""

    def __init__(self, target: BinaryIO, rank: int, prefix: bytes, redact: Redact) -> None:
        self.reader, self.writer = os.pipe()
        self.target = target
        self.rank = rank
        self.prefix = prefix
        self.redact = KeyBlocks(redact)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes. Empty data ends the stream.

        A line without an end is returned if it exceeds `MAX_LINE_BYTES` or if the stream ends.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > MAX_LINE_BYTES):
            lines.append(self._rest)
            self._rest = b""
        return lines


class RankOutput:
    """The pipes of a pod's ranks and of the store."""

    def __init__(self, ranks: range, redact: Redact) -> None:
        self._tail = Tail(MAX_TAIL_BYTES)
        self._last: dict[int, deque[str]] = {}
        self._streams: list[Stream] = []
        for rank in (STORE, *ranks):
            prefix = f"[rank {rank}] ".encode() if rank != STORE and len(ranks) > 1 else b""
            self._last[rank] = deque(maxlen=MAX_LOG_LINES)
            for target in (sys.stdout.buffer, sys.stderr.buffer):
                self._streams.append(Stream(target, rank, prefix, redact))
        self._thread = threading.Thread(target=self._pump, name="rank-output", daemon=True)
        self._thread.start()

    def writers(self, rank: int) -> tuple[int, int]:
        """Return the file descriptors of the rank's stdout and stderr."""
        stdout, stderr = (stream.writer for stream in self._streams if stream.rank == rank)
        return stdout, stderr

    def close(self, timeout: float) -> None:
        """Pass on what is still in the pipes.

        This takes at most `timeout` seconds, because a surviving process may hold a pipe open.
        """
        for stream in self._streams:
            os.close(stream.writer)
        self._thread.join(timeout)

    def last_lines(self, rank: int) -> tuple[str, ...]:
        """Return the last lines of a rank or of the store, at most `MAX_LOG_LINES`, without credentials."""
        return tuple(self._last[rank].copy())

    def tail(self) -> tuple[str, ...]:
        """Return the last lines of all ranks in order of arrival, with prefixes and without credentials.

        They have at most `MAX_TAIL_BYTES`.
        """
        return self._tail.lines()

    def lines(self, rank: int) -> tuple[str, ...]:
        """Return the rank's lines in the kept log, without its prefix and without credentials."""
        prefix = next(stream.prefix for stream in self._streams if stream.rank == rank).decode()
        return tuple(line.removeprefix(prefix) for line in self._tail.lines() if line.startswith(prefix))

    def add(self, rank: int, line: str) -> None:
        """Add a line of the agent to a rank's output. Credentials in it are removed as in any other line."""
        _, stderr = self.writers(rank)
        os.write(stderr, f"{line}\n".encode(errors="replace"))

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            for stream in self._streams:
                selector.register(stream.reader, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, READ_BYTES)
                    self._pass_on(key.data, key.data.feed(data))
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)

    def _pass_on(self, stream: Stream, lines: Iterable[bytes]) -> None:
        for line in lines:
            # surrogateescape preserves bytes that are not UTF-8.
            line = stream.redact(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            # The pod's log may be closed, as with a terminal; this must not block the ranks.
            with contextlib.suppress(OSError, ValueError):
                stream.target.write(stream.prefix + line + b"\n")
                stream.target.flush()
            # A progress bar rewrites its line: only its last state is worth keeping.
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
            self._last[stream.rank].append(text[:MAX_KEPT_CHARACTERS])
            self._tail.append(stream.prefix.decode() + text)
