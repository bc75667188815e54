"""An event of events.k8s.io/v1 about a FineTuneJob."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from finetune_operator import constants
from finetune_operator.core.text import shortened
from finetune_operator.core.transitions import Note


def event(job: dict[str, Any], note: Note, now: datetime) -> dict[str, Any]:
    """The name follows from what it says, so that saying it twice makes one event."""
    metadata = job["metadata"]
    said = f"{metadata['uid']}/{metadata['resourceVersion']}/{note.reason}/{note.message}"
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
