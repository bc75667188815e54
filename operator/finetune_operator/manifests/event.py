"""An event of events.k8s.io/v1 about a FineTuneJob.

Its name follows from what it says of which attempt, so the API server keeps one of those that say the same, for as
long as it keeps events (an hour, by default): a job that goes to and fro between two states, a reconcile that is done
again, and two operators at once make no more. Of the next attempt the same is told again.
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
    """Of the job as it was written with the status that is told."""
    metadata, run = job["metadata"], fields(fields(job.get("status")).get("run"))  # which may be unreadable
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
