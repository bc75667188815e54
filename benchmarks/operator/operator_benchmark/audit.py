"""Counts requests to the API server by client, from its audit log.

A growing log is read from a mark on. If it was rotated since, the marked file has another name, and the newer files
follow it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
LEFT_OUT = frozenset({"leases", "events"})
"""Resources whose requests are not part of a job's cost."""


class Request(NamedTuple):
    """A kind of request: one client, one verb, one resource (for example `pods/status`)."""

    client: str
    verb: str
    resource: str


@dataclass(frozen=True)
class Mark:
    """A place in a log."""

    inode: int
    offset: int


class AuditLog:
    """The audit log of an API server on this machine: JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> Mark:
        """Return the current end of the log. Raises OSError if the log cannot be read."""
        with self._path.open("rb") as log:
            found = self._path.stat()
            log.read(0)
        return Mark(found.st_ino, found.st_size)

    def since(self, mark: Mark) -> Iterator[dict[str, Any]]:
        """Yield the entries after a mark. An incomplete last line is left out."""
        for path, offset in self._files(mark):
            with path.open("rb") as log:
                log.seek(offset)
                for line in log:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def _files(self, mark: Mark) -> list[tuple[Path, int]]:
        """Return the marked file and the newer ones, with the offsets from which to read them."""
        files = self._path.parent.glob(f"{self._path.stem}*{self._path.suffix}")
        by_age = sorted(files, key=lambda path: (path == self._path, path.stat().st_mtime_ns))
        inodes = [path.stat().st_ino for path in by_age]
        first = inodes.index(mark.inode)
        return [(path, mark.offset if number == 0 else 0) for number, path in enumerate(by_age[first:])]


def requests(entries: Iterable[dict[str, Any]], namespace: str) -> Counter[Request]:
    """Count the answered requests about objects of a namespace, also refused ones, without leases and events."""
    counted: Counter[Request] = Counter()
    for entry in entries:
        about = entry.get("objectRef", {})
        # A watch is logged at its beginning and at its end; only the beginning counts.
        begun = entry["verb"] == "watch" and entry["stage"] == "ResponseComplete"
        if about.get("namespace") == namespace and about.get("resource") not in LEFT_OUT and not begun:
            counted[Request(client_of(entry), entry["verb"], _resource(about))] += 1
    return counted


def writes(counted: Counter[Request], without: str) -> Counter[Request]:
    """Return the requests of all other clients that change something."""
    return Counter({r: n for r, n in counted.items() if r.verb in WRITES and r.client != without})


def check_alone(counted: Counter[Request], resource: str) -> None:
    """Raise ValueError if several clients write a resource that only one should write."""
    clients = sorted({r.client for r in counted if r.resource == resource and r.verb in WRITES})
    if len(clients) > 1:
        raise ValueError(f"{' and '.join(clients)} both write {resource}: an operator runs beside ours; stop it")


def client_of(entry: dict[str, Any]) -> str:
    """Return the name of a controller's service account, or the program's name."""
    user = str(entry.get("user", {}).get("username", ""))
    if user.startswith("system:serviceaccount:"):
        return user.rsplit(":", 1)[-1]
    return str(entry.get("userAgent", "unknown")).split("/", 1)[0]


def _resource(about: dict[str, Any]) -> str:
    part = about.get("subresource")
    return f"{about['resource']}/{part}" if part else str(about["resource"])
