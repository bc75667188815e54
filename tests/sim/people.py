"""What users and the cluster do to the jobs: edits, deletions, lost nodes and a killed operator."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from support import jobs as manifests_of_others
from support.clusters import claim
from support.manifests import changed, manifest

from finetune_operator.constants import DEFAULT_CLAIM
from finetune_operator.core.run.naming import child_name
from finetune_operator.local import pods
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    NETWORKPOLICIES,
    PODS,
    SERVICES,
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_trainer.contract import FailureClass

if TYPE_CHECKING:
    from sim.schedule import Schedule

GOOD_MODEL = "workspace://models/minilm"
NO_MODEL = "file:///home/me/model"
"""A model that only local runs can read: the operator refuses it."""
CLAIM_OF_ONE_NODE = "one-node"
"""A claim for jobs with one node; some jobs with more nodes name it by mistake."""
MODES = {DEFAULT_CLAIM: "ReadWriteMany", CLAIM_OF_ONE_NODE: "ReadWriteOnce"}


class People:
    """Acts at random moments."""

    def __init__(self, schedule: Schedule, chance: random.Random) -> None:
        self._all = schedule
        self._chance = chance
        self._requests = 0
        self._names: list[Object] = []
        """The metadata of the Jobs of others that occupy an attempt's name."""
        self._acts: tuple[tuple[Callable[[], Any], int], ...] = (
            (self._evict, 5),
            (self._delete_pod, 4),
            (self._lose_node, 5),
            (self._delete_child, 8),
            (self._suspend_child, 2),
            (self._toggle_suspend, 6),
            (self._edit, 8),
            (self._delete_job, 4),
            (self._take_a_name, 2),
            (self._use_up_quota, 3),
            (self._delete_claim, 4),
            (self._gap, 3),
            (self._restart_operator, 3),
        )

    async def live(self, acts: int) -> None:
        """Perform this number of random acts, one after the other."""
        for _ in range(acts):
            await asyncio.sleep(self._chance.expovariate(1 / 60))
            (act,) = self._chance.choices([a for a, _ in self._acts], [w for _, w in self._acts])
            await act()

    async def make_claims(self) -> None:
        """Create all claims that jobs may name."""
        for name in MODES:
            await self._make_claim(name)

    async def _make_claim(self, name: str) -> None:
        with suppress(AlreadyExistsError):
            await self._all.cluster.create(CLAIMS, claim(name, MODES[name]))
            self._all.trace.say("claim {} is there", name)

    async def create(self, name: str, **extra: Any) -> None:
        """Create a job with a random spec."""
        tolerance = {
            "maxRestarts": self._chance.choice((0, 1, 2, 3, 3, 5)),
            "windowMinutes": self._chance.choice((1, 5, 60)),
            "gangMinutes": self._chance.choice((1, 2, 5)),
            "startupMinutes": self._chance.choice((2, 4)),
        }
        if self._chance.random() < 0.1:
            tolerance["activeMinutes"] = self._chance.choice((1, 3))
        if self._chance.random() < 0.4:
            tolerance["queueMinutes"] = self._chance.choice((1, 1, 5))
        nodes = self._chance.choice((1, 1, 2, 2, 3))
        spec: dict[str, Any] = {
            "spec.resources": {"nodes": nodes, "gpusPerNode": 0},
            "spec.training": {"seed": 1},
            "spec.faultTolerance": tolerance,
            "spec.suspend": self._chance.random() < 0.05,
        }
        if self._chance.random() < 0.3:
            spec["spec.ttlSecondsAfterFinished"] = self._chance.choice((0, 60, 300))
        if self._chance.random() < (0.5 if nodes == 1 else 0.05):
            spec["spec.storage.claimName"] = CLAIM_OF_ONE_NODE
        await self._all.cluster.create(FINETUNEJOBS, manifest(name, **(spec | extra)))
        self._all.trace.say("{} is created: {}", name, spec)

    async def edit(self, name: str, **changes: Any) -> None:
        """Edit the FineTuneJob and retry on a conflict."""
        while job := self._all.cluster.peek(FINETUNEJOBS, "default", name):
            try:
                await self._all.cluster.put(FINETUNEJOBS, changed(job, changes))
                self._all.trace.say("{} is edited: {}", name, changes)
                return
            except ConflictError:
                continue

    async def admit_all(self) -> None:
        """Resume the Jobs that are suspended."""
        for job in self._all.cluster.store.list(JOBS, "default"):
            if job["spec"]["suspend"]:
                await self._all.cluster.put(JOBS, changed(job, {"spec.suspend": False}))

    # ---- acts --------------------------------------------------------------------------------------------------------

    def _some(self, resource: Resource) -> Object | None:
        every = self._all.cluster.store.list(resource, "default")
        if resource == PODS:
            every = [pod for pod in every if not pods.is_finished(pod) and not pods.is_terminating(pod)]
        return self._chance.choice(every) if every else None

    def _note(self, pod: Object, *classes: FailureClass) -> None:
        self._all.history.happened(pods.controller_uid(pod), *classes)

    async def _evict(self) -> None:
        if (pod := self._some(PODS)) and pod["spec"].get("nodeName"):
            self._all.trace.say("{} is evicted", pod["metadata"]["name"])
            self._note(pod, FailureClass.PREEMPTED)
            self._all.machines.evict(pod)

    async def _delete_pod(self) -> None:
        if pod := self._some(PODS):
            self._all.trace.say("somebody deletes {}", pod["metadata"]["name"])
            self._note(pod, FailureClass.PREEMPTED)
            if not pod["spec"].get("nodeName"):
                self._note(pod, FailureClass.UNKNOWN)  # it vanishes without evidence
            await self._all.cluster.delete(PODS, "default", pod["metadata"]["name"])

    async def _lose_node(self) -> None:
        machines = self._all.machines
        pod = self._some(PODS)
        busy = pod["spec"].get("nodeName") if pod else None
        node = busy or self._chance.choice(machines.nodes)
        if node not in machines.cut:
            machines.cut_off(node)
            loop = asyncio.get_running_loop()
            loop.call_later(self._chance.choice((20, 300, 300)), machines.notice, node)
            loop.call_later(self._chance.choice((10, 120, 900)), self._power_on, node)

    def _power_on(self, node: str) -> None:
        if node in self._all.machines.cut:
            self._all.machines.power_on(node)

    async def _delete_child(self) -> None:
        resource = self._chance.choice((JOBS, JOBS, SERVICES, CONFIGMAPS, NETWORKPOLICIES))
        if child := self._some(resource):
            meta = child["metadata"]
            self._all.trace.say("somebody deletes {} {}", resource.kind, meta["name"])
            if resource == JOBS:
                self._all.history.happened(meta["uid"], FailureClass.PREEMPTED, FailureClass.UNKNOWN)
            elif resource == CONFIGMAPS and (job := self._all.cluster.peek(JOBS, "default", meta["name"])):
                self._all.history.happened(job["metadata"]["uid"], FailureClass.PREEMPTED)  # if the spec was edited
            await self._all.cluster.delete(resource, "default", meta["name"])

    async def _suspend_child(self) -> None:
        if job := self._some(JOBS):
            self._all.trace.say("somebody suspends Job {}", job["metadata"]["name"])
            self._all.history.happened(job["metadata"]["uid"], FailureClass.SUSPENDED)
            await self._all.cluster.put(JOBS, changed(job, {"spec.suspend": True}))

    async def _toggle_suspend(self) -> None:
        if job := self._some(FINETUNEJOBS):
            await self.edit(job["metadata"]["name"], **{"spec.suspend": not job["spec"]["suspend"]})

    async def _edit(self) -> None:
        job = self._some(FINETUNEJOBS)
        if job is None:
            return
        self._requests += 1
        changes: dict[str, dict[str, Any]] = {
            "seed": {"spec.training.seed": self._chance.randrange(4)},
            "request": {"spec.retrain.request": str(self._requests)},
            "replace": {"spec.training.seed": 10 + self._requests, "spec.retrain.whileRunning": "Replace"},
            "ttl": {"spec.ttlSecondsAfterFinished": self._chance.choice((0, 60, 300))},
            "budget": {"spec.faultTolerance.maxRestarts": self._chance.randrange(6)},
            "active": {"spec.faultTolerance.activeMinutes": self._chance.choice((3, 60))},
            "queue": {"spec.faultTolerance.queueMinutes": self._chance.choice((1, 60))},
            "memory": {"spec.resources.memory": self._chance.choice(("8Gi", "16Gi"))},
            "nodes": {"spec.resources.nodes": self._chance.choice((1, 2, 3))},
            "mistake": {"spec.model.uri": NO_MODEL},
        }
        kind = self._chance.choice(("seed", *changes))
        await self.edit(job["metadata"]["name"], **changes[kind])

    async def _delete_job(self) -> None:
        if job := self._some(FINETUNEJOBS):
            name = job["metadata"]["name"]
            self._all.trace.say("{} is deleted", name)
            await self._all.cluster.delete(FINETUNEJOBS, "default", name)
            if self._chance.random() < 0.8:
                await asyncio.sleep(self._chance.choice((0, 0, 0.2, 5, 60)))
                await self.create(name)

    async def _take_a_name(self) -> None:
        """Create a Job of another owner with the name that the next attempt's Job will have."""
        job = self._some(FINETUNEJOBS)
        if job and (run := job["status"].get("run")):
            uid, attempt = job["metadata"]["uid"], run["attempt"] + 1
            name = child_name(job["metadata"]["name"], uid, run["number"], attempt)
            self._all.trace.say("somebody makes a Job {}", name)
            stranger = manifests_of_others.job(name, "default", "sleep")
            stranger["spec"]["suspend"] = True
            with suppress(AlreadyExistsError):
                self._names.append((await self._all.cluster.create(JOBS, stranger))["metadata"])

    async def give_names_back(self) -> None:
        """Delete the Jobs of others that occupy names."""
        for meta in self._names:
            with suppress(NotFoundError, ConflictError):
                await self._all.cluster.delete(JOBS, "default", meta["name"], meta["uid"])

    async def _use_up_quota(self) -> None:
        """Refuse new pods for a time, which only the Job controller learns."""
        self._all.trace.say("a quota is used up")
        self._all.no_pods_until = self._all.loop.time() + self._chance.choice((20, 90, 400))

    async def _delete_claim(self) -> None:
        """Delete a claim: no pod can start with it until somebody creates it again."""
        if found := self._some(CLAIMS):
            name = found["metadata"]["name"]
            self._all.trace.say("claim {} is deleted", name)
            await self._all.cluster.delete(CLAIMS, "default", name)
            await self._evict()  # so that another attempt needs the claim
            if self._chance.random() < 0.7:  # otherwise when the weather becomes good
                await asyncio.sleep(self._chance.choice((0.2, 30, 200)))
                await self._make_claim(name)

    async def _gap(self) -> None:
        if not self._all.weather.evidence_is_kept:
            self._all.gap()

    async def _restart_operator(self) -> None:
        if self._all.weather.deaths or self._all.weather.overlaps:
            self._all.restart()
