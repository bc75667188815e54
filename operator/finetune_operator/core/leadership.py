"""Decides on leader election by a Lease: whether it may be taken, and how long its holder may act.

No clock is compared with another one. A lease has expired when it has not changed for its duration since this process
first saw it in that state, by its own clock; the times in the lease are for users. The holder acts for less than that
duration, counted from before it requested the renewal. So two processes act at once only if one clock runs faster than
the other by half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_operator import constants

LEASE_SECONDS = 15
"""Seconds for which other processes leave a lease to its holder."""
RENEW_EVERY = 5.0
ACT_FOR = 10.0
"""Seconds since the last renewal in which the holder may act."""
LOOK_EVERY = 2.0
"""Seconds between two reads of a lease that another process holds."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Sighting:
    """The state of a lease, and the time since which it has been seen in that state, by our clock."""

    spec: Object
    since: float

    @property
    def holder(self) -> str:
        """The identity of the holder; empty if there is none."""
        return str(self.spec.get("holderIdentity") or "")


def sighted(before: Sighting | None, lease: Object, now: float) -> Sighting:
    """Return the sighting of a lease that was just read."""
    spec = lease.get("spec") or {}
    return before if before and before.spec == spec else Sighting(spec, now)


def may_take(seen: Sighting, identity: str, now: float) -> bool:
    """Return whether a lease is ours, has no holder, or has expired."""
    # Another version of the operator may use another duration; the longer one is safer.
    seconds = max(LEASE_SECONDS, seen.spec.get("leaseDurationSeconds") or 0)
    return seen.holder in ("", identity) or now - seen.since >= seconds


def may_act(renewed: float | None, now: float) -> bool:
    """Return whether the holder may still act; `renewed` is when it requested its last renewal."""
    return renewed is not None and now - renewed < ACT_FOR


def is_operator_s(lease: Object) -> bool:
    """Return whether an operator created the lease; any other owner of its name would not release it."""
    labels = lease["metadata"].get("labels") or {}
    return bool(labels.get(constants.LABEL_MANAGED_BY) == constants.MANAGER)


def new_lease(namespace: str, name: str, identity: str, now: datetime) -> dict[str, Any]:
    """Return the lease that its first holder creates."""
    labels = {constants.LABEL_MANAGED_BY: constants.MANAGER}
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    bare = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    return held_by(bare, identity, now)


def held_by(lease: Object, identity: str, now: datetime) -> dict[str, Any]:
    """Return the lease renewed, or taken over."""
    spec = dict(lease.get("spec") or {})
    if spec.get("holderIdentity") != identity:
        transitions = spec.get("leaseTransitions")
        spec["leaseTransitions"] = 0 if transitions is None else transitions + 1
        spec["acquireTime"] = _micro_time(now)
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _micro_time(now)}
    return {**lease, "spec": spec}


def released(lease: Object, now: datetime) -> dict[str, Any]:
    """Return the lease without a holder, so that no standby has to wait until it expires."""
    return {**lease, "spec": {**lease["spec"], "holderIdentity": "", "renewTime": _micro_time(now)}}


def _micro_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
