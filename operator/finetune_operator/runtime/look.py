"""What one look at a job has read. As long as no event has told of a change, a report takes no more than that.

A job that trains is looked at every few seconds, and its objects change every few hours. What is recalled, and what
events have told of its pods, serves for reports alone; whatever starts or ends an attempt is decided on what the API
server says now. Watches can lose an event, so nothing is recalled for long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.observed.views import JobView, Observed
from finetune_operator.protocol import Object

LASTS = 30.0
"""Seconds after which a job is looked at again, whatever the watches said."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """When a look began; two looks never share one, also if they begin at the same time."""

    time: datetime


@dataclass(frozen=True)
class Look:
    """What one look has read, and what was written after it."""

    began: Beginning
    manifest: Object
    """The FineTuneJob as it was written last."""
    observed: Observed

    def after_write(self, manifest: Object, status: FineTuneJobStatus) -> Look:
        """The look with the job as it is now."""
        job = self.observed.job.model_copy(update={"status": status})
        return replace(self, manifest=manifest, observed=replace(self.observed, job=job))

    def of_new_attempt(self, child: Object) -> Look:
        """The look at an attempt whose Job was just made, and has no pods yet."""
        before = self.observed
        new = Observed(before.job, before.now, before.nonce, JobView.of(child), edited=before.edited)
        return replace(self, observed=new)
