"""What a reconcile sees: the job, its attempt's children, and what the pods say of themselves."""

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
"""Of a Job's pod. Whoever may label pods may write anything there."""
_VERSION = re.compile(r"[0-9]{1,20}")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_LONGEST_GRACE = 10**8
"""Seconds; three years."""
_LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)
_LOST_NODE = ("DeletionByTaintManager", "DeletionByPodGC")
"""Reasons of a DisruptionTarget with which no kubelet answers any more."""
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
    """A pod as far as decisions need it. Terminal facts, once seen, stay (`after`)."""

    uid: str
    name: str
    index: int | None
    owner_uid: str | None
    node: str | None = None
    ip: str | None = None
    """None as well if it is its node's: no pod is dialled there."""
    phase: str = "Pending"
    image_id: str | None = None
    scheduled: bool = False
    scheduled_at: datetime | None = None
    running: bool = False
    waiting: str | None = None
    """Why it does not start, for people."""
    waiting_reason: str | None = None
    """The same in one word: Unschedulable, or the kubelet's reason, such as ErrImagePull."""
    exit_code: int | None = None
    message: TerminationMessage | None = None
    reason: str | None = None
    """Of the container's or the pod's end, such as OOMKilled or Evicted."""
    excess: str | None = None
    """What it took more of than its own limit, and was evicted for; with the remedy."""
    ended: datetime | None = None
    deleted: datetime | None = None
    """When its deletion was asked for (not when its grace period ends), in whole seconds."""
    grace_ends: datetime | None = None
    """When it is killed, if it has not ended before; absent unless its deletion was asked for."""
    deletion_version: int = 0
    """The resourceVersion with which that was first seen: the order of deletions within a second."""
    disrupted: str | None = None
    """Why the cluster takes it away, by its DisruptionTarget condition."""
    unreachable: bool = False
    """Its node does not report: the node's controller has called the pod not ready, though its container was."""
    others: int = 0
    """How many containers it has besides the trainer's, as an admission webhook injects them; native sidecars, which
    end by themselves, do not count."""
    others_running: int = 0
    present: bool = True
    """False: it is gone, and will say nothing more."""

    @classmethod
    def of(cls, pod: Object) -> PodView:
        """From the API's object."""
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
        """This view, with the terminal facts of an earlier one that it lacks."""
        if earlier is None:
            return self
        if self.phase == "Pending" and earlier.phase != "Pending":
            return replace(earlier, present=self.present)  # told late
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
        if earlier.deleted:  # the kubelet deletes it once more, without grace, and that moves the timestamp
            kept |= {"deleted": earlier.deleted, "deletion_version": earlier.deletion_version}
        return replace(self, **kept)

    @property
    def told_code(self) -> int | None:
        """The exit code by its own word: a signal may still end the process after its last word is written."""
        return self.message.exit_code if self.message else self.exit_code

    @property
    def failed(self) -> bool:
        """True if the trainer's container ended without success, or the pod failed before that container ran.

        The trainer's container alone counts: a pod whose injected sidecar fails is Failed, whatever its trainer did.
        """
        return self.phase == "Failed" if self.exit_code is None else self.exit_code != 0

    @property
    def outlives_trainer(self) -> bool:
        """True if the trainer's container has ended and another container still keeps the pod on its node."""
        return self.present and self.exit_code is not None and self.others_running > 0

    @property
    def ended_or_gone(self) -> bool:
        """Whether it holds neither a node nor a claim any more."""
        return not self.present or self.phase in ("Succeeded", "Failed")

    @property
    def on_lost_node(self) -> bool:
        """True if the pod's node does not answer, or the cluster has given up waiting for that node."""
        return self.unreachable or (self.disrupted is not None and self.disrupted.startswith(_LOST_NODE))

    @property
    def ending(self) -> tuple[object, ...] | None:
        """How it ends, or is asked to; None as long as it lives."""
        facts = (self.phase == "Failed", self.exit_code, self.deleted, self.disrupted)
        return facts if any(fact is not None and fact is not False for fact in facts) else None


def _waiting(conditions: Mapping[str, Any], states: Iterable[Object]) -> tuple[str, str] | None:
    """In one word, and in a sentence: the scheduler's, if it is understood in plain words, or the kubelet's."""
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
    """A kubelet calls a pod not ready for its containers or for a readiness gate, and says which."""
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
    """Since when it counts as failed: its FailureTarget or Failed condition."""
    failure_message: str
    """The message of that condition, which outlives the pods; `job_verdict.py` reads it."""
    succeeded: frozenset[int]
    """Completed indexes."""
    parallelism: int
    deleted: bool
    suspended: bool = False
    started: datetime | None = field(default=None, compare=False)
    """Since when it is not suspended; a Job that a queue resumes starts anew."""

    @classmethod
    def of(cls, job: Object) -> JobView:
        """From the API's object."""
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
    """None as long as it has not ended, and if no message was found."""

    @classmethod
    def of(cls, job: Object, pods: Iterable[Object], now: datetime) -> LookJobView:
        """Build it from the API's objects: the Job and its pods. One that does not even start is given up some time
        after its own deadline, which does not run while a queue keeps the Job suspended."""
        view = JobView.of(job)
        message = next((pod.message for pod in map(PodView.of, pods) if pod.exit_code == 0 and pod.message), None)
        late = now - view.created > timedelta(seconds=2 * constants.LOOK_SECONDS)
        return cls(view.owner_uid, bool(message or view.failure or view.succeeded or late), message)


def _indexes(ranges: str) -> frozenset[int]:
    """The set that the Job controller writes as `0-2,5`."""
    indexes: set[int] = set()
    for part in ranges.split(","):
        if found := _RANGE.fullmatch(part):
            first, last = found.groups()
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
    claims: Claims | None = None
    """The claims that the next attempt mounts, looked up when it may start; None if they were not, or need not be."""
    look_job: LookJobView | None = None
    """Looked up when all pods ended well and the message of rank 0's is not known."""
    previous: JobView | None = None
    """The Job of the attempt before, while this attempt has none."""
    remaining: tuple[PodView, ...] = ()
    """Pods of earlier attempts and runs that have not ended yet, while this attempt has no Job."""
    missing: tuple[MissingChild, ...] = ()
    """Children of this attempt, whose Job is there, that somebody has deleted."""
    other_policies: frozenset[str] = frozenset()
    """Names of the job's NetworkPolicies that are not that of this attempt's pods."""
    leftover: bool = False
    """Whether children of the newest run are there, which is looked up when they may have to go."""
    edited: bool = False
    """The spec wants another model than the run that goes on; `job` then has the run's own spec, with the fields of the
    new one that hold at once."""
    edit: FineTuneJobSpec | None = None
    """The spec of now, if it is `edited`."""
    spec_lost: bool = False
    """The run's own spec was deleted; `job` then has that of now."""
    jitter: float = 0.5
    """Random, from 0 to 1."""

    @property
    def all_run(self) -> bool:
        """Whether each node of the run has a pod that runs."""
        run = self.job.status.run
        return run is not None and sum(pod.running for pod in self.pods) >= run.nodes

    @property
    def generation(self) -> int:
        """Of the spec that the status speaks of: an edit that the run does not follow is not yet observed; one before
        it, which held at once, is and stays so."""
        run = self.job.status.run
        if self.edited and run:
            return max(run.generation, self.job.status.observed_generation)
        return self.job.metadata.generation
