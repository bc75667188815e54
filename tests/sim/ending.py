"""The end of a schedule: there is room for all pods and no more faults, so each job must end as its spec demands.

Afterwards no object is left over, and another reconcile of each job writes nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from sim.invariants import Known
from sim.people import CLAIM_OF_ONE_NODE, GOOD_MODEL, NO_MODEL

from finetune_operator.constants import LABEL_JOB
from finetune_operator.core.observed.views import PodView
from finetune_operator.local import pods
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, NETWORKPOLICIES, PODS, SERVICES, Object
from finetune_operator.runtime.job_memory import JobMemories, Key

if TYPE_CHECKING:
    from sim.schedule import Schedule

PATIENCE = 3 * 3600.0
"""Seconds until everything must have ended; the back-off and a start that must first time out take longest."""
LOOK = 60.0
ASKS_FOR_A_RUN = ("task", "model", "dataset", "method", "training", "deepspeed", "evaluate", "output")


async def correct_mistakes(schedule: Schedule, chance: random.Random) -> None:
    """Correct the specs that cannot run, and resume most of the suspended jobs."""
    for job in schedule.cluster.store.list(FINETUNEJOBS, "default"):
        changes: dict[str, object] = {}
        if job["spec"]["model"]["uri"] == NO_MODEL:
            changes["spec.model.uri"] = GOOD_MODEL
        if job["spec"]["storage"].get("claimName") == CLAIM_OF_ONE_NODE and job["spec"]["resources"]["nodes"] > 1:
            changes["spec.resources.nodes"] = 1
        if job["spec"]["suspend"] and chance.random() < 0.7:
            changes["spec.suspend"] = False
        if changes:
            await schedule.people.edit(job["metadata"]["name"], **changes)


async def converged(schedule: Schedule) -> None:
    """Wait until each job is in the phase that it must reach."""
    until = schedule.loop.time() + PATIENCE
    while faults := [fault for job in _jobs(schedule) if (fault := _fault(schedule, job))] + _left(schedule):
        if schedule.loop.time() > until:
            schedule.violated("it never ended: " + "; ".join(faults))
        await asyncio.sleep(LOOK)


async def settled(schedule: Schedule) -> None:
    """Check that nothing is written any more: neither by the operator, nor by a new one that reconciles each job."""

    def state() -> list[Object]:
        kinds = (FINETUNEJOBS, JOBS, PODS, SERVICES, CONFIGMAPS, NETWORKPOLICIES)
        return [obj for kind in kinds for obj in schedule.cluster.store.list(kind, None)]

    await asyncio.sleep(LOOK)  # what began in good weather may finish
    before = state()
    await asyncio.sleep(2 * LOOK)
    _compare(schedule, before, state(), "the operator wrote, though nothing had changed")
    memories = JobMemories()
    for pod in schedule.cluster.store.list(PODS, "default"):  # as the watches of a new operator report them
        memories.record(PodView.of(pod), Key("default", pod["metadata"]["labels"][LABEL_JOB]))
    other = schedule.reconciler(schedule.cluster, schedule.settings, memories)
    for job in _jobs(schedule):
        await other.reconcile(Key("default", job["metadata"]["name"]))
    _compare(schedule, before, state(), "another look at every job wrote something")


def _compare(schedule: Schedule, before: list[Object], after: list[Object], what: str) -> None:
    if before != after:
        names = {(a["kind"], a["metadata"]["name"]) for a in after if a not in before}
        told = {
            str(name): [x for x in (*before, *after) if (x["kind"], x["metadata"]["name"]) == name] for name in names
        }
        schedule.violated(f"{what}: {told}")


def _jobs(schedule: Schedule) -> list[Object]:
    return schedule.cluster.store.list(FINETUNEJOBS, "default")


def _fault(schedule: Schedule, job: Object) -> str | None:
    """Return why a job is not yet in its final state."""
    name, status = job["metadata"]["name"], job["status"]
    known = schedule.invariants.known[job["metadata"]["uid"]]
    phase, generation = status.get("phase"), job["metadata"]["generation"]
    # An edit waits for the end of a run that has trained, even while the run is suspended.
    run = status.get("run", {})
    waits = phase == "Suspended" and "completionTime" not in run and _is_edited(known, job)
    waits = waits and run["number"] in known.trained and job["spec"]["retrain"]["whileRunning"] == "Finish"
    if any(c["reason"] == "Refused" and c["status"] == "True" for c in status.get("conditions", [])):
        return f"{name} is still Refused"
    if status["observedGeneration"] != generation and not waits:
        return f"{name}: generation {status['observedGeneration']} of {generation} is observed"
    wanted = _wanted(known, job)
    if phase not in wanted:
        return f"{name} is {phase} and not {' or '.join(wanted)}"
    return None


def _wanted(known: Known, job: Object) -> tuple[str, ...]:
    run = job["status"].get("run")
    if run is None or "completionTime" not in run:
        return ("Suspended",) if job["spec"]["suspend"] else ("Complete", "Failed")
    last = known.ledger[-1]
    replaced = last["class"] == "Replaced" and run["number"] not in known.trained  # regardless of later edits
    if replaced or _is_edited(known, job, after_success=last["class"] == "Success"):
        return ("Suspended",) if job["spec"]["suspend"] else ("Training",)
    return ("Complete",) if last["class"] == "Success" else ("Failed",)


def _is_edited(known: Known, job: Object, after_success: bool = False) -> bool:
    """Return whether the spec asks for another run than the newest."""
    run = job["status"].get("run")
    if run is None:
        return False
    trained = known.specs[known.started[run["number"]]]
    names = ASKS_FOR_A_RUN if after_success else (*ASKS_FOR_A_RUN, "retrain", "resources")
    return any(_of(trained, name) != _of(job["spec"], name) for name in names)


def _of(spec: Object, name: str) -> Object | None:
    return {"request": spec["retrain"]["request"]} if name == "retrain" else spec.get(name)


def _left(schedule: Schedule) -> list[str]:
    """Return the objects that exist and should not."""
    store = schedule.cluster.store
    found = []
    protected: set[str] = set()
    """The jobs whose NetworkPolicy was found: a job has only one, which all its runs share."""
    for resource in (JOBS, SERVICES, CONFIGMAPS, NETWORKPOLICIES, PODS):
        for obj in store.list(resource, "default"):
            meta = obj["metadata"]
            if not any(store.has_uid(owner["uid"]) for owner in meta.get("ownerReferences", [])):
                found.append(f"{resource.kind} {meta['name']} is an orphan")
            elif resource == PODS and not pods.is_finished(obj):
                found.append(f"pod {meta['name']} is still there")
            elif resource == NETWORKPOLICIES:
                if meta["labels"][LABEL_JOB] in protected:
                    found.append(f"{meta['name']} is another NetworkPolicy")
                protected.add(meta["labels"][LABEL_JOB])
                if _may_not_stay(store.get(FINETUNEJOBS, "default", meta["labels"][LABEL_JOB])):
                    found.append(f"NetworkPolicy {meta['name']} has outlived ttlSecondsAfterFinished")
            elif resource != PODS and _may_not_stay(store.get(FINETUNEJOBS, "default", meta["labels"][LABEL_JOB])):
                found.append(f"{resource.kind} {meta['name']} has outlived ttlSecondsAfterFinished")
    return found


def _may_not_stay(job: Object | None) -> bool:
    """Return whether the job has ended with a ttl, so that its children are deleted soon or should be gone."""
    run = job and job["status"].get("run")
    return bool(job and run and "completionTime" in run and "ttlSecondsAfterFinished" in job["spec"])
