"""Builds the owner reference of every child: deleting the FineTuneJob deletes them, even while the operator is down."""

from __future__ import annotations

from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob


def owner_of(job: FineTuneJob) -> dict[str, Any]:
    """Return the reference to a job that owns a child.

    It does not set blockOwnerDeletion, so that no deletion of a FineTuneJob waits for its children.
    """
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
