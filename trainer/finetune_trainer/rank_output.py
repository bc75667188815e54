"""What the ranks print: passed on line by line to the pod's log, the last lines kept for the pod's last message, all
of it without credentials.

Each rank's stdout and stderr is a named pipe in the scratch folder, opened by the shell that becomes the rank
(`launch.py`), so lines of different ranks never mix and nothing is written to a disk that could fill up. One thread
reads all pipes. The agent itself holds every pipe open for writing until `close`: a pipe ends when it and all ranks
have closed it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.contract import MAX_LOG_LINES
from finetune_trainer.redaction import KeyBlocks, Redact

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024
"""A longer line is passed on in pieces."""
MAX_KEPT_CHARACTERS = 500
"""Of a line that is kept for the last message."""
MAX_TAIL_BYTES = 1024 * 1024
"""Of the log that is kept for the workspace."""
MAX_LAUNCHER_LINES = 2000
"""torchrun's report of a failure has seven lines for each rank of the pod, and what matters stands above it."""


class Tail:
    """The last lines of a stream, within a number of bytes."""

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
    """One pipe: its bytes become lines."""

    def __init__(self, path: Path, target: BinaryIO, name: str, prefix: bytes, redact: Redact) -> None:
        os.mkfifo(path)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.writer = os.open(path, os.O_WRONLY)
        self.target = target
        self.name = name
        self.prefix = prefix
        self.redact = KeyBlocks(redact)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Complete lines, and what is too long to wait for its end; all of it at the end of the stream (no data)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) > MAX_LINE_BYTES):
            lines.append(self._rest)
            self._rest = b""
        return lines


class RankOutput:
    """The pipes of a pod's ranks and of torchrun, whose own words are kept under the name `LAUNCHER`."""

    LAUNCHER = "launcher"

    def __init__(self, folder: Path, local_ranks: int, first_rank: int, redact: Redact) -> None:
        self._redact = redact
        self._tail = Tail(MAX_TAIL_BYTES)
        self._last: dict[str, deque[str]] = {}
        self._streams: list[Stream] = []
        self._add(folder, self.LAUNCHER, self.LAUNCHER, b"")
        self.launcher_stdout, self.launcher_stderr = (stream.writer for stream in self._streams)
        for local_rank in range(local_ranks):
            rank = first_rank + local_rank
            prefix = f"[rank {rank}] ".encode() if local_ranks > 1 else b""
            self._add(folder, str(local_rank), str(rank), prefix)
        self._thread = threading.Thread(target=self._pump, name="rank-output", daemon=True)
        self._thread.start()

    def _add(self, folder: Path, stem: str, name: str, prefix: bytes) -> None:
        self._last[name] = deque(maxlen=MAX_LAUNCHER_LINES if name == self.LAUNCHER else MAX_LOG_LINES)
        for kind, target in (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer)):
            self._streams.append(Stream(folder / f"{stem}.{kind}", target, name, prefix, self._redact))

    def close(self, timeout: float) -> None:
        """Pass on what is still in the pipes; at most so many seconds, for a process that lives on may hold one."""
        for stream in self._streams:
            os.close(stream.writer)
        self._thread.join(timeout)

    def last_lines(self, rank: int) -> tuple[str, ...]:
        """Of a rank, at most `MAX_LOG_LINES`, without credentials."""
        return tuple(self._last[str(rank)].copy())

    def launcher_lines(self) -> tuple[str, ...]:
        """torchrun's own last lines, at most `MAX_LAUNCHER_LINES`, without credentials."""
        return tuple(self._last[self.LAUNCHER].copy())

    def tail(self) -> tuple[str, ...]:
        """Of all, in the order of arrival, with prefixes, without credentials; at most `MAX_TAIL_BYTES`."""
        return self._tail.lines()

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
            # Bytes that are no UTF-8 survive the way there and back.
            line = stream.redact(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            # The pod's log may be gone (a closed terminal); the ranks must not be blocked by that.
            with contextlib.suppress(OSError, ValueError):
                stream.target.write(stream.prefix + line + b"\n")
                stream.target.flush()
            # A progress bar rewrites its line: only its last state is worth keeping.
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
            self._last[stream.name].append(text[:MAX_KEPT_CHARACTERS])
            self._tail.append(stream.prefix.decode() + text)
