"""The times, from watches, at which the pods of each gang were created and ran, and the status reported it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from finetune_operator import constants
from finetune_operator.protocol import Event

LIVE = ("Pending", "Running")


class Gang(NamedTuple):
    """The pods of an attempt of a job."""

    job: str
    attempt: int


class Sightings:
    """Times by gang, in seconds of the given clock: the first moment at which all pods of the gang had the state."""

    def __init__(self, pods: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Observe gangs of this many pods."""
        self._size = pods
        self._clock = clock
        self._changed = asyncio.Event()
        self._uids: dict[Gang, set[str]] = defaultdict(set)
        self._running: dict[Gang, set[str]] = defaultdict(set)
        self.pods: dict[str, dict[str, Any]] = {}
        """The existing pods by UID, as last observed."""
        self.jobs: dict[str, dict[str, Any]] = {}
        """The existing FineTuneJobs by name, as last observed."""
        self.created: dict[Gang, float] = {}
        self.running: dict[Gang, float] = {}
        self.told: dict[Gang, float] = {}
        """The times at which the status reported that all pods run."""

    def forget(self) -> None:
        """Forget all times, before the next measurement."""
        for seen in (self._uids, self._running, self.created, self.running, self.told):
            seen.clear()

    def saw_pod(self, event: Event) -> None:
        """Record that a pod was added, changed or deleted."""
        pod = event.object
        metadata, labels = pod["metadata"], pod["metadata"].get("labels", {})
        if constants.LABEL_JOB in labels:
            gang, uid = Gang(labels[constants.LABEL_JOB], int(labels[constants.LABEL_ATTEMPT])), metadata["uid"]
            self._uids[gang].add(uid)
            if event.type == "DELETED":
                self.pods.pop(uid, None)
            else:
                self.pods[uid] = pod
            if event.type != "DELETED" and pod.get("status", {}).get("phase") == "Running":
                self._running[gang].add(uid)
            else:
                self._running[gang].discard(uid)
            self._note(self.created, gang, len(self._uids[gang]) >= self._size)
            self._note(self.running, gang, len(self._running[gang]) >= self._size)
        self._changed.set()

    def saw_job(self, event: Event) -> None:
        """Record that a FineTuneJob was added, changed or deleted."""
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.jobs.pop(name, None)
        else:
            self.jobs[name] = event.object
            status = event.object.get("status", {})
            attempt = status.get("run", {}).get("attempt", 0)
            self._note(self.told, Gang(name, attempt), says_all_pods_run(status))
        self._changed.set()

    def of(self, gang: Gang) -> list[dict[str, Any]]:
        """Return the existing pods of a gang."""
        return [self.pods[uid] for uid in self._uids[gang] if uid in self.pods]

    async def until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition. Raises TimeoutError, which names what did not happen."""
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}") from None

    def _note(self, times: dict[Gang, float], gang: Gang, so: bool) -> None:
        if so and gang not in times:
            times[gang] = self._clock()


def says_all_pods_run(status: dict[str, Any]) -> bool:
    """Return whether a FineTuneJob's status reports that all pods run."""
    reasons = {condition["reason"] for condition in status.get("conditions", ())}
    return constants.PODS_RUNNING.name in reasons
