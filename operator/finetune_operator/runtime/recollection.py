"""What the last look at a job saw, as long as no event has told of a change: a report takes no more than that.

A job that trains is looked at every few seconds, and its objects change every few hours. What is recalled, and what
events have told of its pods, serves for reports alone; whatever starts or ends an attempt is decided on what the API
server says now. Watches can lose an event, so nothing is recalled for long.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.observed.views import JobView, Observed
from finetune_operator.core.times import within
from finetune_operator.protocol import Object

LASTS = 30.0
"""Seconds after which a job is looked at again, whatever the watches said."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """Of a look; each is one of its own."""

    time: datetime


@dataclass(frozen=True)
class Look:
    """What one look has read, and what was written after it."""

    began: Beginning
    manifest: Object
    """Of the job, as it was written last."""
    observed: Observed

    def after_write(self, manifest: Object, status: FineTuneJobStatus) -> Look:
        """With the job as it is now."""
        job = self.observed.job.model_copy(update={"status": status})
        return replace(self, manifest=manifest, observed=replace(self.observed, job=job))

    def of_new_attempt(self, child: Object) -> Look:
        """Whose Job was made, and has no pods yet."""
        before = self.observed
        new = Observed(before.job, before.now, before.nonce, JobView.of(child), edited=before.edited)
        return replace(self, observed=new)


class Recollection:
    """At most one look for each job."""

    def __init__(self) -> None:
        self._began: dict[Hashable, Beginning] = {}
        self._looks: dict[Hashable, Look] = {}
        self._versions: dict[Hashable, str] = {}
        """Of the jobs themselves, as events told them last."""

    def begin(self, job: Hashable, now: datetime) -> Beginning:
        """A look begins; the one before is forgotten."""
        self.forget(job)
        self._began[job] = beginning = Beginning(now)
        return beginning

    def keep(self, job: Hashable, look: Look) -> None:
        """Unless something has changed since it began."""
        if self._began.get(job) is look.began:
            self._looks[job] = look

    def of(self, job: Hashable, now: datetime) -> Look | None:
        """The last look, if it still holds."""
        look = self._looks.get(job)
        if look is None or not within(now - look.began.time, LASTS):
            return None
        version = look.manifest["metadata"].get("resourceVersion")
        return look if self._versions.get(job, version) == version else None

    def saw(self, job: Hashable, version: str) -> None:
        """What is written there by others is told by another version than the one that is recalled."""
        self._versions[job] = version

    def forget(self, job: Hashable) -> None:
        """Something has changed, or the job is at rest, or others look after it."""
        self._began.pop(job, None)
        self._looks.pop(job, None)
        self._versions.pop(job, None)
