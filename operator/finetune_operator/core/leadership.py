"""Who leads, by a Lease: may it be taken, and how long may its holder act? Decisions without a clock of their own.

No clock is compared with another's: a lease has expired when it has not changed for its duration since we first saw it
as it is, by our clock. Its times are for people. The holder acts for less than that, counted from before it asked for
the renewal, so two act at once only if one's clock runs faster than the other's by half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_operator import constants

LEASE_SECONDS = 15
"""For which others leave a lease to its holder."""
RENEW_EVERY = 5.0
ACT_FOR = 10.0
"""Seconds since the last renewal in which the holder acts."""
LOOK_EVERY = 2.0
"""Seconds between two looks at a lease that somebody else holds."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Sighting:
    """What a lease says, and since when we have seen it say so, by our clock."""

    spec: Object
    since: float

    @property
    def holder(self) -> str:
        """Empty: nobody."""
        return str(self.spec.get("holderIdentity") or "")


def sighted(before: Sighting | None, lease: Object, now: float) -> Sighting:
    """A lease was read."""
    spec = lease.get("spec") or {}
    return before if before and before.spec == spec else Sighting(spec, now)


def may_take(seen: Sighting, identity: str, now: float) -> bool:
    """Whether a lease is ours, nobody's, or has expired."""
    # Another version may have another duration; the longer one is the safer one.
    seconds = max(LEASE_SECONDS, seen.spec.get("leaseDurationSeconds") or 0)
    return seen.holder in ("", identity) or now - seen.since >= seconds


def may_act(renewed: float | None, now: float) -> bool:
    """Whether the holder of a lease, whose last renewal was asked for at that time, may still act."""
    return renewed is not None and now - renewed < ACT_FOR


def is_operator_s(lease: Object) -> bool:
    """Whether an operator made it. Who else may have taken the name would not give way."""
    labels = lease["metadata"].get("labels") or {}
    return bool(labels.get(constants.LABEL_MANAGED_BY) == constants.MANAGER)


def new_lease(namespace: str, name: str, identity: str, now: datetime) -> dict[str, Any]:
    """For the first holder."""
    labels = {constants.LABEL_MANAGED_BY: constants.MANAGER}
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    bare = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    return held_by(bare, identity, now)


def held_by(lease: Object, identity: str, now: datetime) -> dict[str, Any]:
    """The lease renewed, or taken over."""
    spec = dict(lease.get("spec") or {})
    if spec.get("holderIdentity") != identity:
        transitions = spec.get("leaseTransitions")
        spec["leaseTransitions"] = 0 if transitions is None else transitions + 1
        spec["acquireTime"] = _micro_time(now)
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _micro_time(now)}
    return {**lease, "spec": spec}


def released(lease: Object, now: datetime) -> dict[str, Any]:
    """The lease given back: nobody need wait for it to expire."""
    return {**lease, "spec": {**lease["spec"], "holderIdentity": "", "renewTime": _micro_time(now)}}


def _micro_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
