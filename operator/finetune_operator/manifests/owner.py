"""The owner reference of every child: deleting the FineTuneJob deletes them, with the operator down too."""

from __future__ import annotations

from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob


def owner_of(job: FineTuneJob) -> dict[str, Any]:
    """Without blockOwnerDeletion: no deletion of a FineTuneJob waits for its children."""
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
