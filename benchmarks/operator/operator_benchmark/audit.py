"""Requests to the API server, counted from its audit log, by who made them.

A log that grows is read from a mark on. When it is rotated in between, the file that was marked has another name, and
the newer ones follow it.
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
"""Resources that say nothing of what a job costs."""


class Request(NamedTuple):
    """Of one client, with one verb, on one resource (`pods/status`, say)."""

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
        """The end of the log, now. Raises OSError if it cannot be read."""
        with self._path.open("rb") as log:
            found = self._path.stat()
            log.read(0)
        return Mark(found.st_ino, found.st_size)

    def since(self, mark: Mark) -> Iterator[dict[str, Any]]:
        """The entries after a mark; the last line may be half written, and then is left out."""
        for path, offset in self._files(mark):
            with path.open("rb") as log:
                log.seek(offset)
                for line in log:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def _files(self, mark: Mark) -> list[tuple[Path, int]]:
        """The file that was marked and those that came after it."""
        files = self._path.parent.glob(f"{self._path.stem}*{self._path.suffix}")
        by_age = sorted(files, key=lambda path: (path == self._path, path.stat().st_mtime_ns))
        inodes = [path.stat().st_ino for path in by_age]
        first = inodes.index(mark.inode)
        return [(path, mark.offset if number == 0 else 0) for number, path in enumerate(by_age[first:])]


def requests(entries: Iterable[dict[str, Any]], namespace: str) -> Counter[Request]:
    """Answered requests about objects of a namespace, without leases and events; refused ones count too."""
    counted: Counter[Request] = Counter()
    for entry in entries:
        about = entry.get("objectRef", {})
        # A watch is logged when it begins and when it ends.
        begun = entry["verb"] == "watch" and entry["stage"] == "ResponseComplete"
        if about.get("namespace") == namespace and about.get("resource") not in LEFT_OUT and not begun:
            counted[Request(client_of(entry), entry["verb"], _resource(about))] += 1
    return counted


def writes(counted: Counter[Request], without: str) -> Counter[Request]:
    """Those that change something, of all clients but one."""
    return Counter({r: n for r, n in counted.items() if r.verb in WRITES and r.client != without})


def check_alone(counted: Counter[Request], resource: str) -> None:
    """Raises ValueError if several clients write a resource that is one's alone."""
    clients = sorted({r.client for r in counted if r.resource == resource and r.verb in WRITES})
    if len(clients) > 1:
        raise ValueError(f"{' and '.join(clients)} both write {resource}: an operator runs beside ours; stop it")


def client_of(entry: dict[str, Any]) -> str:
    """A controller's name, or the program's."""
    user = str(entry.get("user", {}).get("username", ""))
    if user.startswith("system:serviceaccount:"):
        return user.rsplit(":", 1)[-1]
    return str(entry.get("userAgent", "unknown")).split("/", 1)[0]


def _resource(about: dict[str, Any]) -> str:
    part = about.get("subresource")
    return f"{about['resource']}/{part}" if part else str(about["resource"])
