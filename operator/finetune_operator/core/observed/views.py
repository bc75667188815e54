"""The views that a reconcile decides on: the job, its attempt's children, and what the pods report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.claims import Claims
from finetune_operator.core.observed.eviction import own_excess
from finetune_operator.core.observed.foreign import controller_uid, entries, fields, moment, text, whole
from finetune_operator.core.observed.last_word import last_word
from finetune_operator.core.observed.scheduler_message import explained
from finetune_operator.core.observed.text import MAX_LINE_BYTES, shortened
from finetune_trainer.contract import PodStatus, TerminationMessage

Object = Mapping[str, Any]

_INDEX = re.compile(r"[0-9]{1,6}")
"""The index label of a Job's pod; anyone who may label pods may write anything there."""
_VERSION = re.compile(r"[0-9]{1,20}")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_LONGEST_GRACE = 10**8
"""Three years, in seconds."""
_LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)
_LOST_NODE = ("DeletionByTaintManager", "DeletionByPodGC")
"""The reasons of a DisruptionTarget condition that mean that the kubelet no longer answers."""
UNSCHEDULABLE = "Unschedulable"
_HOPELESS_WAITS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)


@dataclass(frozen=True)
class PodView:
    """A pod, reduced to what decisions need; facts about its end stay once they were seen (`after`)."""

    uid: str
    name: str
    index: int | None
    owner_uid: str | None
    node: str | None = None
    ip: str | None = None
    """The pod's address; None also if it is that of the node, which is never dialled."""
    phase: str = "Pending"
    image_id: str | None = None
    scheduled: bool = False
    scheduled_at: datetime | None = None
    running: bool = False
    waiting: str | None = None
    """Why the pod does not start, as a sentence for users."""
    waiting_reason: str | None = None
    """The same reason as one word: Unschedulable, or the kubelet's reason, for example ErrImagePull."""
    exit_code: int | None = None
    message: TerminationMessage | None = None
    reason: str | None = None
    """The reason why the container or the pod ended, for example OOMKilled or Evicted."""
    excess: str | None = None
    """What the pod used beyond its own limit and was evicted for, with the remedy."""
    ended: datetime | None = None
    deleted: datetime | None = None
    """When the pod's deletion was requested (not when its grace period ends), in whole seconds."""
    grace_ends: datetime | None = None
    """When the pod is killed unless it ends before; None unless its deletion was requested."""
    deletion_version: int = 0
    """The resourceVersion with which the deletion was first seen; it orders deletions within a second."""
    disrupted: str | None = None
    """Why the cluster takes the pod away, according to its DisruptionTarget condition."""
    unreachable: bool = False
    """Whether the pod's node does not report.

    The node's controller then marks the pod as not ready, although its container was ready.
    """
    others: int = 0
    """The number of containers besides the trainer's, for example those that an admission webhook injects.

    Native sidecars end by themselves and are not counted.
    """
    others_running: int = 0
    present: bool = True
    """Whether the pod still exists; one that does not will report nothing more."""

    @classmethod
    def of(cls, pod: Object) -> PodView:
        """Return the view of the API's object."""
        metadata, spec, status = fields(pod.get("metadata")), fields(pod.get("spec")), fields(pod.get("status"))
        index = text(fields(metadata.get("labels")).get(constants.LABEL_INDEX))
        conditions = {str(c.get("type")): c for c in entries(status.get("conditions"))}
        containers = entries(status.get("containerStatuses"))
        container = next((c for c in containers if c.get("name") == constants.CONTAINER), {})
        others = [fields(c.get("state")) for c in containers if c.get("name") != constants.CONTAINER]
        state = fields(container.get("state"))
        before = entries(status.get("initContainerStatuses"))
        terminated = fields(state.get("terminated"))
        scheduled = conditions.get("PodScheduled", {})
        disruption = conditions.get("DisruptionTarget", {})
        disrupted = disruption.get("status") == "True"
        waiting = _waiting(conditions, [*(fields(c.get("state")) for c in before), state, *others])
        shares_node = bool(spec.get("hostNetwork")) or status.get("podIP") == status.get("hostIP")
        return cls(
            uid=text(metadata.get("uid")) or "",
            name=text(metadata.get("name")) or "",
            index=int(index) if index and _INDEX.fullmatch(index) else None,
            owner_uid=controller_uid(metadata),
            node=text(spec.get("nodeName")),
            ip=None if shares_node else text(status.get("podIP")),
            phase=text(status.get("phase")) or "Pending",
            image_id=text(container.get("imageID")),
            scheduled=text(spec.get("nodeName")) is not None,
            scheduled_at=moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
            running="running" in state,
            waiting=waiting[1] if waiting else None,
            waiting_reason=waiting[0] if waiting else None,
            exit_code=whole(terminated.get("exitCode")),
            message=last_word(text(terminated.get("message"))),
            reason=text(terminated.get("reason")) or text(status.get("reason")) or _failed_before(before),
            excess=own_excess(status),
            ended=moment(terminated.get("finishedAt")),
            deleted=_deletion(metadata),
            grace_ends=moment(metadata.get("deletionTimestamp")),
            deletion_version=_deletion_version(metadata),
            disrupted=f"{disruption.get('reason')}: {disruption.get('message', '')}" if disrupted else None,
            unreachable="running" in state and _is_unreachable(conditions),
            others=len(others),
            others_running=sum("terminated" not in other for other in others),
        )

    def after(self, earlier: PodView | None) -> PodView:
        """Return this view, completed with the lasting facts of an earlier view."""
        if earlier is None:
            return self
        if self.phase == "Pending" and earlier.phase != "Pending":
            return replace(earlier, present=self.present)  # the event arrived late
        facts = (
            "exit_code",
            "excess",
            "message",
            "ended",
            "deleted",
            "grace_ends",
            "disrupted",
            "node",
            "index",
            "owner_uid",
            "scheduled_at",
        )
        kept = {name: getattr(earlier, name) for name in facts if getattr(self, name) is None}
        if self.reason is None or self.exit_code is None:
            kept["reason"] = earlier.reason or self.reason
        if earlier.deleted:  # the kubelet deletes the pod once more, without grace, which changes the timestamp
            kept |= {"deleted": earlier.deleted, "deletion_version": earlier.deletion_version}
        return replace(self, **kept)

    @property
    def told_code(self) -> int | None:
        """The exit code in the pod's message, or else that of its container.

        A signal may still end the process after it has written its message.
        """
        return self.message.exit_code if self.message else self.exit_code

    @property
    def failed(self) -> bool:
        """Whether the trainer's container ended without success, or the pod failed before that container ran.

        Only the trainer's container counts: a pod whose injected sidecar fails is Failed, whatever its trainer did.
        """
        return self.phase == "Failed" if self.exit_code is None else self.exit_code != 0

    @property
    def outlives_trainer(self) -> bool:
        """Whether the trainer's container has ended and another container still keeps the pod on its node."""
        return self.present and self.exit_code is not None and self.others_running > 0

    @property
    def ended_or_gone(self) -> bool:
        """Whether the pod holds neither a node nor a claim any more."""
        return not self.present or self.phase in ("Succeeded", "Failed")

    @property
    def on_lost_node(self) -> bool:
        """Whether the pod's node does not answer, or the cluster has given up waiting for that node."""
        return self.unreachable or (self.disrupted is not None and self.disrupted.startswith(_LOST_NODE))

    @property
    def ending(self) -> tuple[object, ...] | None:
        """How the pod ends or is asked to end; None while it lives."""
        facts = (self.phase == "Failed", self.exit_code, self.deleted, self.disrupted)
        return facts if any(fact is not None and fact is not False for fact in facts) else None


def _waiting(conditions: Mapping[str, Any], states: Iterable[Object]) -> tuple[str, str] | None:
    """Return why a pod waits, in one word and in a sentence.

    The sentence is the scheduler's, in plain words if it is understood, or the kubelet's.
    """
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        words = str(scheduled.get("message") or scheduled.get("reason") or "not scheduled")
        return UNSCHEDULABLE, explained(words) or shortened(words, MAX_LINE_BYTES)
    for state in states:
        waiting = fields(state.get("waiting"))
        if waiting.get("reason") in _HOPELESS_WAITS:
            return waiting["reason"], f"{waiting['reason']}: {waiting.get('message', '')}"
    return None


def _is_unreachable(conditions: Mapping[str, Any]) -> bool:
    """Return whether the node's controller, and not the kubelet, has marked a pod as not ready.

    A kubelet does so because of the pod's containers or a readiness gate, and the conditions show which.
    """
    ready, containers = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    gate = ready.get("reason") == "ReadinessGatesNotReady"
    return ready.get("status") == "False" and containers.get("status") == "True" and not gate


def _failed_before(init_containers: Iterable[Object]) -> str | None:
    for container in init_containers:
        if code := whole(fields(fields(container.get("state")).get("terminated")).get("exitCode")):
            return f"init container {container.get('name')} ended with exit code {code}"
    return None


def _deletion(metadata: Object) -> datetime | None:
    asked = moment(metadata.get("deletionTimestamp"))
    grace = whole(metadata.get("deletionGracePeriodSeconds")) or 0
    return asked - timedelta(seconds=min(max(grace, 0), _LONGEST_GRACE)) if asked else None


def _deletion_version(metadata: Object) -> int:
    version = text(metadata.get("resourceVersion"))
    return int(version) if version and "deletionTimestamp" in metadata and _VERSION.fullmatch(version) else 0


@dataclass(frozen=True)
class JobView:
    """The attempt's Job."""

    uid: str
    owner_uid: str | None
    created: datetime
    failure: datetime | None
    """When the Job failed: the time of its FailureTarget or Failed condition."""
    failure_message: str
    """The message of that condition, which outlives the pods; `job_verdict.py` parses it."""
    succeeded: frozenset[int]
    """The completed indexes."""
    parallelism: int
    deleted: bool
    suspended: bool = False
    started: datetime | None = field(default=None, compare=False)
    """The time since which the Job is not suspended; a Job that a queue resumes starts anew."""

    @classmethod
    def of(cls, job: Object) -> JobView:
        """Return the view of the API's object."""
        metadata, spec, status = fields(job.get("metadata")), fields(job.get("spec")), fields(job.get("status"))
        failures = [
            c
            for c in entries(status.get("conditions"))
            if c.get("type") in ("FailureTarget", "Failed") and c.get("status") == "True"
        ]
        times = [t for c in failures if (t := moment(c.get("lastTransitionTime")))]
        return cls(
            uid=text(metadata.get("uid")) or "",
            owner_uid=controller_uid(metadata),
            created=moment(metadata.get("creationTimestamp")) or _LONG_AGO,
            failure=min(times, default=_LONG_AGO) if failures else None,
            failure_message=next((text(c.get("message")) or "" for c in failures), ""),
            succeeded=_indexes(text(status.get("completedIndexes")) or ""),
            parallelism=whole(spec.get("parallelism")) or 1,
            deleted="deletionTimestamp" in metadata,
            suspended=spec.get("suspend") is True,
            started=moment(status.get("startTime")),
        )

    def of_this_start(self, pods: Iterable[PodView]) -> tuple[PodView, ...]:
        """Leave out pods that never had a node and were deleted before the Job was resumed by a queue.

        The queue deleted them when it suspended the Job. The API's times are whole seconds, and it may resume a Job in
        the second in which it suspended it. A pod that had a node has already ended the attempt.
        """
        return tuple(
            pod for pod in pods if pod.scheduled or not (self.started and pod.deleted and pod.deleted <= self.started)
        )


@dataclass(frozen=True)
class LookJobView:
    """The Job that reads the last message of rank 0's pod from the workspace (`manifests/look_job.py`)."""

    owner_uid: str | None
    ended: bool
    message: TerminationMessage | None
    """The message that the Job found; None until it has ended, or if there was none."""

    @classmethod
    def of(cls, job: Object, pods: Iterable[Object], now: datetime) -> LookJobView:
        """Return the view of the Job and its pods, which are the API's objects.

        A Job that does not even start is given up some time after its own deadline, because that deadline does not run
        while a queue keeps the Job suspended.
        """
        view = JobView.of(job)
        message = next((pod.message for pod in map(PodView.of, pods) if pod.exit_code == 0 and pod.message), None)
        late = now - view.created > timedelta(seconds=2 * constants.LOOK_SECONDS)
        return cls(view.owner_uid, bool(message or view.failure or view.succeeded or late), message)


def _indexes(ranges: str) -> frozenset[int]:
    """Parse the set of indexes that the Job controller writes as `0-2,5`."""
    indexes: set[int] = set()
    for part in ranges.split(","):
        if found := _RANGE.fullmatch(part):
            first, last = found.groups()
            indexes.update(range(int(first), int(last or first) + 1))
    return frozenset(indexes)


@dataclass(frozen=True)
class Observed:
    """All facts that one reconcile decides on."""

    job: FineTuneJob
    now: datetime
    nonce: str
    """A random nonce, used if an attempt starts now."""
    child: JobView | None = None
    pods: tuple[PodView, ...] = ()
    """The pods of this attempt's Job: those that exist, and those whose end was seen."""
    answers: Mapping[str, PodStatus] = field(default_factory=dict)
    """What the agents answered in this reconcile, by pod UID."""
    refused: str | None = None
    """Why the Job controller cannot create pods (quota, Pod Security), from its events."""
    claims: Claims | None = None
    """The claims that the next attempt mounts; None if they were not looked up or need not be."""
    look_job: LookJobView | None = None
    """The look Job; looked up when all pods ended well and the message of rank 0's pod is not known."""
    previous: JobView | None = None
    """The Job of the previous attempt, while this attempt has none."""
    remaining: tuple[PodView, ...] = ()
    """The pods of earlier attempts and runs that have not ended yet, while this attempt has no Job."""
    missing: tuple[MissingChild, ...] = ()
    """The children of this attempt that somebody has deleted although its Job exists."""
    other_policies: frozenset[str] = frozenset()
    """The names of the job's NetworkPolicies other than that of this attempt's pods."""
    leftover: bool = False
    """Whether children of the newest run exist; looked up when they may have to be deleted."""
    edited: bool = False
    """Whether the spec was edited since the run began, beyond the fields that take effect at once.

    In that case `job` has the run's own spec, with the new values of the fields that take effect at once.
    """
    edit: FineTuneJobSpec | None = None
    """The current spec, if it is `edited`."""
    spec_lost: bool = False
    """Whether the run's own spec was deleted; in that case `job` has the current one."""
    jitter: float = 0.5
    """A random number between 0 and 1."""

    @property
    def all_run(self) -> bool:
        """Whether each node of the run has a pod that runs."""
        run = self.job.status.run
        return run is not None and sum(pod.running for pod in self.pods) >= run.nodes

    @property
    def generation(self) -> int:
        """The generation of the spec that the status describes.

        An edit that the run does not follow is not yet observed; an earlier edit that took effect at once stays
        observed.
        """
        run = self.job.status.run
        if self.edited and run:
            return max(run.generation, self.job.status.observed_generation)
        return self.job.metadata.generation
