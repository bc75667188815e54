"""Checks the claims that an attempt mounts: its storage, and those that pvc:// URIs refer to.

An attempt whose claim is missing or cannot be mounted by its pods would hang in ContainerCreating or unscheduled, and
count as a failed start or hold GPUs for nothing, so it waits before any pod is created. A claim that only one node can
mount at a time must also have been released by the pods of earlier attempts. For a claim that several nodes can mount,
the attempt does not wait, so the pod of a dead node delays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobSpec
from finetune_operator.constants import Reason
from finetune_operator.core.observed.claims import Claims
from finetune_operator.core.observed.views import PodView
from finetune_operator.core.run.resolve import claims_of, uris_of

SHARED = "ReadWriteMany"
READ_BY_MANY = "ReadOnlyMany"


class Obstacle(NamedTuple):
    """The reason why an attempt cannot mount a claim."""

    reason: Reason
    field: str
    """The field of the spec that names the claim."""
    claim: str
    modes: str = ""
    wanted: str = ""
    """The access modes of which the claim should have one; `modes` are those that it has."""

    @property
    def may_pass(self) -> bool:
        """Whether the obstacle can pass without an edit: a missing claim may be created a moment later."""
        return self.reason in (constants.CLAIM_NOT_FOUND, constants.CLAIM_BEING_DELETED)


def obstacle(
    spec: FineTuneJobSpec, storage: str, nodes: int, claims: Claims | None, begins: bool = True
) -> Obstacle | None:
    """Return the first obstacle to mounting the claims on that many nodes; None if there is none.

    `storage` is the claim of the job's storage. Return None too if no claim was looked up. Unless the run `begins`, the
    access modes of claims that are only read are not checked: earlier attempts have mounted these claims, which is
    possible because not every storage enforces the modes.
    """
    if claims is None:
        return None
    for name, field in _fields_of_claims(spec, storage).items():
        found = claims.get(name)
        if found is None:
            return Obstacle(constants.CLAIM_NOT_FOUND, field, name)
        if found.deleted:
            return Obstacle(constants.CLAIM_BEING_DELETED, field, name)
        if found.lost:
            return Obstacle(constants.CLAIM_LOST, field, name)
        wanted = (SHARED,) if name == storage else (SHARED, READ_BY_MANY)
        judged = nodes > 1 and (begins or name == storage)
        if judged and not set(wanted) & set(found.modes):
            modes = ", ".join(found.modes)
            return Obstacle(constants.VOLUME_NOT_SHARED, field, name, modes, " or ".join(wanted))
    return None


def _fields_of_claims(spec: FineTuneJobSpec, storage: str) -> dict[str, str]:
    """Return the field that names each claim, by claim, the storage first."""
    fields = {storage: "storage.claimName"}
    for claim in claims_of(spec):
        named = (field for field, uri in uris_of(spec).items() if uri.startswith(f"pvc://{claim}/"))
        fields.setdefault(claim, next(named))
    return fields


def holder(remaining: Iterable[PodView], claims: Claims | None, storage: str) -> PodView | None:
    """Return the pod that keeps the next attempt from mounting the storage's claim.

    A pod without a node does not hold the claim.
    """
    claim = claims.get(storage) if claims else None
    if claim is None or SHARED in claim.modes:
        return None
    return next((pod for pod in remaining if pod.scheduled), None)
