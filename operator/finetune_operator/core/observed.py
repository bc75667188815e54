"""What a reconcile sees: the job, its attempt's children, and what the pods say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.core.last_word import last_word
from finetune_operator.core.times import from_text
from finetune_trainer.contract import PodStatus, TerminationMessage

Object = Mapping[str, Any]

_INDEX = re.compile(r"[0-9]{1,6}")
"""Of a Job's pod. Whoever may label pods may write anything there."""
_HOPELESS_WAITS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)


@dataclass(frozen=True)
class PodView:
    """A pod as far as decisions need it. Terminal facts, once seen, stay (`after`)."""

    uid: str
    name: str
    index: int | None
    owner_uid: str | None
    node: str | None = None
    ip: str | None = None
    phase: str = "Pending"
    image_id: str | None = None
    scheduled: bool = False
    running: bool = False
    waiting: str | None = None
    """Why it does not start: the scheduler's or the kubelet's words."""
    exit_code: int | None = None
    message: TerminationMessage | None = None
    reason: str | None = None
    """Of the container's or the pod's end, such as OOMKilled or Evicted."""
    ended: datetime | None = None
    deleted: datetime | None = None
    """When its deletion was asked for (not when its grace period ends)."""
    disrupted: str | None = None
    """Why the cluster takes it away, by its DisruptionTarget condition."""

    @classmethod
    def of(cls, pod: Object) -> PodView:
        """From the API's object."""
        metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
        index = metadata.get("labels", {}).get(constants.LABEL_INDEX)
        owner = next((o["uid"] for o in metadata.get("ownerReferences", []) if o.get("controller")), None)
        conditions = {c["type"]: c for c in status.get("conditions", [])}
        container: Object = next(
            (c for c in status.get("containerStatuses", []) if c["name"] == constants.CONTAINER), {}
        )
        state = container.get("state", {})
        before = status.get("initContainerStatuses", [])
        terminated = state.get("terminated")
        disruption = conditions.get("DisruptionTarget", {})
        disrupted = disruption.get("status") == "True"
        return cls(
            uid=metadata["uid"],
            name=metadata["name"],
            index=int(index) if index and _INDEX.fullmatch(index) else None,
            owner_uid=owner,
            node=spec.get("nodeName"),
            ip=status.get("podIP"),
            phase=status.get("phase", "Pending"),
            image_id=container.get("imageID") or None,
            scheduled=bool(spec.get("nodeName")),
            running="running" in state,
            waiting=_waiting(conditions, [*(c.get("state", {}) for c in before), state]),
            exit_code=terminated["exitCode"] if terminated else None,
            message=last_word(terminated.get("message")) if terminated else None,
            reason=(terminated or {}).get("reason") or status.get("reason") or _failed_before(before),
            ended=_time((terminated or {}).get("finishedAt")),
            deleted=_deletion(metadata),
            disrupted=f"{disruption.get('reason')}: {disruption.get('message', '')}" if disrupted else None,
        )

    def after(self, earlier: PodView | None) -> PodView:
        """This view, with the terminal facts of an earlier one that it lacks."""
        if earlier is None:
            return self
        facts = ("exit_code", "message", "ended", "deleted", "disrupted", "node", "index", "owner_uid")
        kept = {name: getattr(earlier, name) for name in facts if getattr(self, name) is None}
        if self.reason is None or self.exit_code is None:
            kept["reason"] = earlier.reason or self.reason
        return replace(self, **kept)

    @property
    def failed(self) -> bool:
        """Ended by itself, without success."""
        return (self.exit_code is not None and self.exit_code != 0) or (self.phase == "Failed")


def _waiting(conditions: Mapping[str, Any], states: Iterable[Object]) -> str | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled")
    for state in states:
        waiting = state.get("waiting", {})
        if waiting.get("reason") in _HOPELESS_WAITS:
            return f"{waiting['reason']}: {waiting.get('message', '')}"
    return None


def _failed_before(init_containers: Iterable[Object]) -> str | None:
    for container in init_containers:
        if code := container.get("state", {}).get("terminated", {}).get("exitCode"):
            return f"init container {container['name']} ended with exit code {code}"
    return None


def _time(text: str | None) -> datetime | None:
    return from_text(text) if text else None


def _deletion(metadata: Mapping[str, Any]) -> datetime | None:
    if "deletionTimestamp" not in metadata:
        return None
    grace = metadata.get("deletionGracePeriodSeconds") or 0
    return from_text(metadata["deletionTimestamp"]) - timedelta(seconds=grace)


@dataclass(frozen=True)
class JobView:
    """The attempt's Job."""

    uid: str
    owner_uid: str | None
    created: datetime
    failure: datetime | None
    """Since when it counts as failed: its FailureTarget or Failed condition."""
    failure_message: str
    succeeded: frozenset[int]
    """Completed indexes."""
    parallelism: int
    deleted: bool

    @classmethod
    def of(cls, job: Object) -> JobView:
        """From the API's object."""
        metadata, status = job["metadata"], job.get("status", {})
        failures = [
            c
            for c in status.get("conditions", [])
            if c["type"] in ("FailureTarget", "Failed") and c["status"] == "True"
        ]
        times = [t for c in failures if (t := _time(c.get("lastTransitionTime")))]
        return cls(
            uid=metadata["uid"],
            owner_uid=next((o["uid"] for o in metadata.get("ownerReferences", []) if o.get("controller")), None),
            created=from_text(metadata["creationTimestamp"]),
            failure=min(times) if times else None,
            failure_message=failures[0].get("message", "") if failures else "",
            succeeded=_indexes(status.get("completedIndexes", "")),
            parallelism=job["spec"]["parallelism"],
            deleted="deletionTimestamp" in metadata,
        )


def _indexes(text: str) -> frozenset[int]:
    """The set that the Job controller writes as `0-2,5`."""
    indexes: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        indexes.update(range(int(first), int(last or first) + 1))
    return frozenset(indexes)


@dataclass(frozen=True)
class Observed:
    """All that one reconcile decides on."""

    job: FineTuneJob
    now: datetime
    nonce: str
    """Random; used if an attempt starts now."""
    child: JobView | None = None
    pods: tuple[PodView, ...] = ()
    """Of this attempt's Job: those that exist, and those whose end was seen."""
    answers: Mapping[str, PodStatus] = field(default_factory=dict)
    """By pod UID: what the agents answered in this reconcile."""
    refused: str | None = None
    """Why the Job controller cannot make pods (quota, Pod Security), from its events."""
    claim_modes: tuple[str, ...] | None = None
    """Access modes of the storage claim; looked up only before several nodes start."""
