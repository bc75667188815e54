"""The Job controller for Indexed Jobs, with the behaviour of Kubernetes 1.36.

A pod that failed counts as a failure at once. So does a deleted pod, except with podReplacementPolicy Failed, where it
counts when it has ended. When a rule of the podFailurePolicy matches, or there are more failures than `backoffLimit`,
the Job gets the condition FailureTarget and all its other pods are deleted (SIGTERM, grace period). When the last of
them has ended, the Job gets the condition Failed. The pod that failed by itself is kept. When every index has
succeeded, the Job gets SuccessCriteriaMet, then Complete. Pods that a suspension deletes do not count as failures.
When the creation of a pod is refused, for example by a quota, the controller reports it in an Event of the Job and
retries with increasing delays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from finetune_operator.constants import LABEL_INDEX, LABEL_JOB_NAME
from finetune_operator.local import pods
from finetune_operator.local.clock import Clock, timestamp
from finetune_operator.local.garbage import Wait
from finetune_operator.local.store import Store, clone
from finetune_operator.protocol import CORE_EVENTS, JOBS, PODS, ApiError, Event, Object, Resource

LABEL_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
FAILURE = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
SUCCESS = ("CompletionsReached", "Reached expected number of succeeded pods")
LONGEST_RETRY = 60.0
"""The maximum number of seconds until the creation of pods is retried; the first retry follows after 1 second."""


class JobHost(Protocol):
    """The cluster, as its Job controller sees it."""

    clock: Clock

    @property
    def store(self) -> Store: ...

    def insert(self, resource: Resource, manifest: Object) -> Object: ...

    def update(self, resource: Resource, obj: Object) -> Object: ...

    def delete_pod(self, pod: Object) -> None: ...

    def name_suffix(self) -> str: ...


@dataclass
class Tally:
    """The pods of a Job and their outcomes. Each pod is counted once, when it ends or its deletion is requested."""

    pods: dict[str, Object] = field(default_factory=dict)
    """The pods that exist, by UID."""
    at_once: bool = True
    """Whether a deleted pod counts as failed before it has ended."""
    counted: set[str] = field(default_factory=set)
    failed: int = 0
    first_failed: Object | None = None
    succeeded: set[int] = field(default_factory=set)
    refused: int = 0
    """The number of consecutive failures to create a pod."""

    def see(self, pod: Object, *, gone: bool) -> None:
        """Record that a pod was created, was changed, or was removed (`gone`)."""
        uid, phase = pod["metadata"]["uid"], pods.phase(pod)
        self.pods[uid] = pod
        if gone:
            del self.pods[uid]
        if uid in self.counted:
            return
        if phase == "Succeeded":
            self.succeeded.add(_index(pod))
        elif phase == "Failed" or gone or (self.at_once and pods.is_terminating(pod)):
            self.failed += 1
            self.first_failed = self.first_failed or pod
        else:
            return
        self.counted.add(uid)

    def running(self) -> list[Object]:
        """Return the pods that have not ended and are not being deleted, including those that wait for a node."""
        return [pod for pod in self.pods.values() if not pods.is_finished(pod) and not pods.is_terminating(pod)]

    def terminating(self) -> list[Object]:
        """Return the pods that are being deleted and have not ended."""
        return [pod for pod in self.pods.values() if not pods.is_finished(pod) and pods.is_terminating(pod)]


class JobController:
    """Creates and deletes the pods of Jobs, and writes the status of Jobs."""

    def __init__(self, host: JobHost, wait: Wait) -> None:
        """Register with the store.

        `wait` returns when the controller may handle the next Job.
        """
        self._host = host
        self._wait = wait
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._queued: set[tuple[str, str]] = set()
        self._tallies: dict[str, Tally] = {}
        host.store.listen(self._see)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            key = await self._queue.get()
            await self._wait()
            self._queued.discard(key)
            self._sync(*key)

    def _see(self, resource: Resource, event: Event) -> None:
        meta = event.object["metadata"]
        if resource == JOBS:
            if event.type == "DELETED":
                self._tallies.pop(meta["uid"], None)
                return
            at_once = event.object["spec"].get("podReplacementPolicy") != "Failed"
            self._tallies.setdefault(meta["uid"], Tally(at_once=at_once))
            self._enqueue(meta["namespace"], meta["name"])
        elif resource == PODS and (tally := self._tallies.get(pods.controller_uid(event.object) or "")):
            tally.see(event.object, gone=event.type == "DELETED")
            self._enqueue(meta["namespace"], meta["labels"][LABEL_JOB_NAME])

    def _enqueue(self, namespace: str, name: str) -> None:
        """Put a Job into the queue, unless it is there already."""
        if (namespace, name) not in self._queued:
            self._queued.add((namespace, name))
            self._queue.put_nowait((namespace, name))

    def _sync(self, namespace: str, name: str) -> None:
        job = self._host.store.get(JOBS, namespace, name)
        if job is None or _has(job, "Failed") or _has(job, "Complete"):
            return
        job = clone(job)
        tally = self._tallies[job["metadata"]["uid"]]
        if not _has(job, "FailureTarget") and not _has(job, "SuccessCriteriaMet"):
            self._judge(job, tally)
        if _has(job, "FailureTarget") or _has(job, "SuccessCriteriaMet"):
            self._end(job, tally)
        elif job["spec"]["suspend"]:
            self._suspend(job, tally)
        else:
            self._fill(job, tally)
        self._write_status(job, tally)

    def _judge(self, job: Object, tally: Tally) -> None:
        rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
        by_rule = _matching_rule(rules, tally.first_failed) if tally.first_failed else None
        if by_rule or tally.failed > job["spec"]["backoffLimit"]:
            pods.set_condition(job, "FailureTarget", "True", self._host.clock.now(), *(by_rule or FAILURE))
        elif len(tally.succeeded) >= job["spec"]["completions"]:
            pods.set_condition(job, "SuccessCriteriaMet", "True", self._host.clock.now(), *SUCCESS)

    def _end(self, job: Object, tally: Tally) -> None:
        for pod in tally.running():
            self._host.delete_pod(pod)
        if tally.terminating():
            return
        now = self._host.clock.now()
        if _has(job, "FailureTarget"):
            target = next(c for c in job["status"]["conditions"] if c["type"] == "FailureTarget")
            pods.set_condition(job, "Failed", "True", now, target["reason"], target["message"])
        else:
            job["status"]["completionTime"] = timestamp(now)
            pods.set_condition(job, "Complete", "True", now, *SUCCESS)

    def _suspend(self, job: Object, tally: Tally) -> None:
        for pod in tally.running():
            tally.counted.add(pod["metadata"]["uid"])
            self._host.delete_pod(pod)
        job["status"].pop("startTime", None)
        pods.set_condition(job, "Suspended", "True", self._host.clock.now(), "JobSuspended", "Job suspended")

    def _fill(self, job: Object, tally: Tally) -> None:
        now = self._host.clock.now()
        if _has(job, "Suspended"):
            pods.set_condition(job, "Suspended", "False", now, "JobResumed", "Job resumed")
        job["status"].setdefault("startTime", timestamp(now))
        awaited = [] if tally.at_once else tally.terminating()
        running = [_index(pod) for pod in (*tally.running(), *awaited)]
        missing = sorted(set(range(job["spec"]["completions"])) - tally.succeeded - set(running))
        for index in missing[: max(0, job["spec"]["parallelism"] - len(running))]:
            try:
                self._host.insert(PODS, self._pod(job, index))
            except ApiError as error:
                self._refused(job, tally, error)
                return
        tally.refused = 0

    def _refused(self, job: Object, tally: Tally, error: ApiError) -> None:
        """Report the refusal in an Event and schedule a retry.

        An Event is the only way, because the request that created the Job was answered long before.
        """
        meta, now = job["metadata"], timestamp(self._host.clock.now())
        references = {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "uid": meta["uid"]}
        names = {"name": meta["name"], "namespace": meta["namespace"]}
        event = {
            "apiVersion": CORE_EVENTS.api_version,
            "kind": CORE_EVENTS.kind,
            "metadata": {"name": f"{meta['name']}.{self._host.name_suffix()}", "namespace": meta["namespace"]},
            "involvedObject": references | names,
            "reason": "FailedCreate",
            "message": f"Error creating: {error}",
            "type": "Warning",
            "source": {"component": "job-controller"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._host.insert(CORE_EVENTS, event)
        wait = min(LONGEST_RETRY, 2.0**tally.refused)
        tally.refused += 1
        asyncio.get_running_loop().call_later(wait, self._enqueue, meta["namespace"], meta["name"])

    def _write_status(self, job: Object, tally: Tally) -> None:
        running = tally.running()
        counts = {"active": len(running), "failed": tally.failed, "succeeded": len(tally.succeeded)}
        status = {key: value for key, value in job["status"].items() if key not in counts}
        status |= {key: value for key, value in counts.items() if value}
        status |= {"ready": sum(map(pods.is_ready, running)), "terminating": len(tally.terminating())}
        if tally.succeeded:
            status["completedIndexes"] = index_ranges(tally.succeeded)
        self._host.update(JOBS, {**job, "status": status})

    def _pod(self, job: Object, index: int) -> Object:
        meta, template = job["metadata"], clone(job["spec"]["template"])
        given = template.get("metadata", {})
        of_job = {LABEL_CONTROLLER_UID: meta["uid"], LABEL_JOB_NAME: meta["name"], LABEL_INDEX: str(index)}
        of_job |= {"controller-uid": meta["uid"], "job-name": meta["name"]}
        owner = {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.kind,
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        spec = template["spec"]
        spec.setdefault("hostname", f"{meta['name']}-{index}")
        variable = {
            "name": "JOB_COMPLETION_INDEX",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL_INDEX}']"}},
        }
        for container in spec["containers"]:
            container["env"] = [*container.get("env", []), variable]
        return {
            "apiVersion": PODS.api_version,
            "kind": PODS.kind,
            "metadata": {
                "name": f"{meta['name']}-{index}-{self._host.name_suffix()}",
                "generateName": f"{meta['name']}-{index}-",
                "namespace": meta["namespace"],
                "labels": {**(given.get("labels") or {}), **of_job},
                "annotations": {**(given.get("annotations") or {}), LABEL_INDEX: str(index)},
                "ownerReferences": [owner],
            },
            "spec": spec,
        }


def _has(job: Object, condition: str) -> bool:
    conditions = job.setdefault("status", {}).get("conditions", [])
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


def _matching_rule(rules: Iterable[Object], pod: Object) -> tuple[str, str] | None:
    """Return the reason and the message of the condition if a FailJob rule matches the failed pod."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    status = pod.get("status", {})
    for number, rule in enumerate(rules):
        suffix = f"matching FailJob rule at index {number}"
        for wanted in rule.get("onPodConditions", []):
            if any(
                (c["type"], c["status"]) == (wanted["type"], wanted["status"]) for c in status.get("conditions", [])
            ):
                return "PodFailurePolicy", f"Pod {name} has condition {wanted['type']} {suffix}"
        if codes := rule.get("onExitCodes"):
            for container in status.get("containerStatuses", []):
                code = container["state"].get("terminated", {}).get("exitCode", 0)
                is_in = (code in codes["values"]) == (codes["operator"] == "In")
                if code and is_in and container["name"] == codes.get("containerName", container["name"]):
                    why = f"Container {container['name']} for pod {name} failed with exit code {code} {suffix}"
                    return "PodFailurePolicy", why
    return None


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"][LABEL_INDEX])


def index_ranges(indexes: Iterable[int]) -> str:
    """Return the text of `completedIndexes`: three or more successive indexes as a range, as in "0,1,3-5"."""
    ranges: list[list[int]] = []
    for index in sorted(indexes):
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1].append(index)
        else:
            ranges.append([index])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in ranges)
