"""What one observation of a job has read; as long as no event reports a change, it is enough for a report.

A job that trains is reconciled every few seconds, while its objects change every few hours. Remembered objects, and
what events have reported about pods, are used for reports alone; what starts or ends an attempt is decided on what the
API server returns now. Watches can lose an event, so nothing is used for long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.observed.views import JobView, Observed
from finetune_operator.protocol import Object

LASTS = 30.0
"""Seconds after which a job is read again, whatever the watches reported."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """The beginning of an observation; two observations never share one, even if they begin at the same time."""

    time: datetime


@dataclass(frozen=True)
class Look:
    """An observation: what it has read, and what was written after it."""

    began: Beginning
    manifest: Object
    """The FineTuneJob as it was last written."""
    observed: Observed

    def after_write(self, manifest: Object, status: FineTuneJobStatus) -> Look:
        """Return the observation with the job as it was just written."""
        job = self.observed.job.model_copy(update={"status": status})
        return replace(self, manifest=manifest, observed=replace(self.observed, job=job))

    def of_new_attempt(self, child: Object) -> Look:
        """Return the observation of an attempt whose Job was just created and has no pods yet."""
        before = self.observed
        new = Observed(before.job, before.now, before.nonce, JobView.of(child), edited=before.edited)
        return replace(self, observed=new)
