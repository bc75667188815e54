"""Builds an event of events.k8s.io/v1 about a FineTuneJob.

Its name is derived from its text and from the attempt, so the API server keeps only one of several equal events, for as
long as it keeps events (an hour, by default). Therefore a job that alternates between two states, a reconcile that is
repeated, and two operators at once create no further events. The next attempt causes the same event anew.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from finetune_operator import constants
from finetune_operator.core.observed.foreign import fields
from finetune_operator.core.observed.text import shortened
from finetune_operator.core.status.transitions import Note


def event(job: dict[str, Any], note: Note, now: datetime) -> dict[str, Any]:
    """Return the event about a job; `job` is the object as it was written with the reported status."""
    metadata, run = job["metadata"], fields(fields(job.get("status")).get("run"))  # the run may be unreadable
    said = json.dumps([metadata["uid"], run.get("number"), run.get("attempt"), note.reason, note.message])
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
            "namespace": metadata["namespace"],
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": note.type,
        "reason": note.reason,
        "note": shortened(note.message),
        "action": "Reconcile",
        "reportingController": f"{constants.GROUP}/{constants.MANAGER}",
        "reportingInstance": constants.MANAGER,
        "regarding": {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
