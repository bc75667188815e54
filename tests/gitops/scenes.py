"""FineTuneJobs in every phase, one scene each: the real operator on the in-memory cluster with scripted pods.

A scene has the name of its recording (`tests/support/recorded/memory/<name>.yaml`). To add a scene, write it here, add
its verdict to `verdicts.py`, and run `make record`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NamedTuple

from support.bench import bench
from support.clusters import World, claim, condition, last_words, operated, run_of
from support.manifests import changed, manifest

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.constants import Phase
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    ForbiddenError,
    Object,
    Resource,
)
from finetune_trainer.contract import CheckpointReport
from finetune_trainer.contract import Phase as RankPhase

Scene = Callable[[], Awaitable[Object]]
SCENES: dict[str, Scene] = {}
TWO_NODES = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
UNREADABLE = {"spec.model.uri": "file:///srv/model"}
"""A model that the schema accepts and the operator refuses."""
CHECKPOINT = CheckpointReport(step=20, time=1_800_000_000, bytes=1_200_000, save_seconds=2.5)


class Running(NamedTuple):
    """The only pod of a job, and the job's run."""

    pod: Object
    run: RunStatus


def without_pods(resource: Resource, obj: Object) -> Object:
    """Admit objects as the cluster does, but refuse pods like an exhausted quota."""
    if resource == PODS:
        raise ForbiddenError(403, "Forbidden", f'pods "{obj["metadata"]["name"]}" is forbidden: exceeded quota: team')
    return admit(resource, obj)


def scene(**how: Any) -> Callable[[Callable[[World], Awaitable[Object]]], Scene]:
    """Return a decorator that adds a function to SCENES, with a new cluster for each call.

    `how` has the arguments of `operated`.
    """

    def register(play: Callable[[World], Awaitable[Object]]) -> Scene:
        @wraps(play)
        async def played() -> Object:
            async with operated(**how) as world:
                return await play(world)

        SCENES[play.__name__.replace("_", "-")] = played
        return played

    return register


async def running(world: World) -> Running:
    """Create a job and return when its pod runs."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    return Running(pod, run_of(await world.until(lambda s: s.phase == Phase.STARTING)))


async def trained(world: World) -> Running:
    """Create a job and return when it trains."""
    job = await running(world)
    world.say(job.pod, job.run, step=3)
    await world.until(lambda s: s.phase == Phase.TRAINING)
    return job


async def completed(world: World) -> None:
    """Create a job and return when it is complete."""
    job = await running(world)
    world.driver.finish(job.pod, 0, last_words(job.pod, job.run))
    await world.until(lambda s: s.phase == Phase.COMPLETE)


async def stalled(world: World, reason: str) -> Object:
    """Return the job when it is stalled for this reason."""
    await world.until(lambda s: s.conditions and condition(s, "Stalled") == ("True", reason))
    return await world.job()


async def edited(world: World, field: str, **values: Any) -> Object:
    """Edit the job and return it before the operator has observed the edit."""
    job = await world.job()
    job["spec"][field] = {**job["spec"].get(field, {}), **values}
    return await world.cluster.put(FINETUNEJOBS, job)


async def passing(world: World, phase: Phase, act: Awaitable[Object]) -> Object:
    """Await `act` and return the job from the moment at which it was in a phase that it soon leaves."""

    async def first() -> Object:
        async for event in world.cluster.watch(FINETUNEJOBS, "default"):
            if event.object.get("status", {}).get("phase") == phase:
                return event.object
        raise AssertionError("a watch does not end")

    seen = asyncio.create_task(first())
    await act
    async with asyncio.timeout(10):
        return await seen


# ---- one run ---------------------------------------------------------------------------------------------------------


@scene()
async def created(world: World) -> Object:
    return await world.cluster.create(FINETUNEJOBS, manifest())


async def waiting(world: World, reason: str) -> Object:
    """Return the job when its Ready condition is False with this reason."""
    await world.until(lambda s: s.conditions and condition(s, "Ready") == ("False", reason))
    return await world.job()


@scene(automatic=False)
async def pending(world: World) -> Object:
    """Return a job whose pods have just been created."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await waiting(world, "Pending")


@scene(automatic=False)
async def unschedulable(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    world.driver.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    return await waiting(world, "Unschedulable")


@scene(automatic=False, admission=without_pods)
async def pods_refused(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await waiting(world, "PodsRefused")


@scene(automatic=False)
async def queued(world: World) -> Object:
    """Return a job whose Job a queue has suspended before any pod ran."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    await world.pods_of_attempt(1, 1)
    (job,) = await world.cluster.list(JOBS, "default")
    await world.cluster.put(JOBS, changed(job, {"spec.suspend": True}))
    return await waiting(world, "Queued")


@scene(automatic=False)
async def image_not_pulled(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    world.driver.schedule(pod)
    world.driver.wait(pod, "ErrImagePull", "trainer:test: not found")
    return await waiting(world, "ImageNotPulled")


@scene(automatic=False)
async def container_not_created(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    world.driver.schedule(pod)
    world.driver.wait(pod, "CreateContainerConfigError", 'secret "hf" not found')
    return await waiting(world, "ContainerNotCreated")


@scene(automatic=False)
async def starting(world: World) -> Object:
    """Return a job of which one pod runs, and the other has a node and pulls its image."""
    await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
    first, second = await world.pods(2)
    for pod in (first, second):
        world.driver.schedule(pod)
    world.driver.run(first)
    return await waiting(world, "Starting")


@scene()
async def pods_running(world: World) -> Object:
    """Return a job whose ranks load the model."""
    await running(world)
    return await world.job()


@scene()
async def training(world: World) -> Object:
    await trained(world)
    return await world.job()


async def troubled(world: World, reason: str, **told: Any) -> Object:
    """Return the job when rank 0 has reported a problem."""
    job = await trained(world)
    world.say(job.pod, job.run, step=25, **told)
    await world.until(lambda s: condition(s, "TrainingHealthy") == ("False", reason))
    return await world.job()


@scene()
async def diverging(world: World) -> Object:
    return await troubled(world, "Diverging", figures={"loss": None, "skipped_steps": 4, "skipped_in_row": 3})


@scene()
async def checkpoint_failing(world: World) -> Object:
    failure = "default/clauses/runs/1-x/checkpoints/step-25-a1 could not be written: No space left on device (rank 0)"
    return await troubled(world, "CheckpointFailing", checkpoint=CHECKPOINT.model_copy(update={"failure": failure}))


@scene()
async def straggling(world: World) -> Object:
    return await troubled(world, "Straggling", figures={"slowest_rank": 0, "slowness": 2.75}, checkpoint=CHECKPOINT)


@scene()
async def exporting(world: World) -> Object:
    job = await running(world)
    world.say(job.pod, job.run, phase=RankPhase.EXPORT, step=30)
    await world.until(lambda s: s.phase == Phase.EXPORTING)
    return await world.job()


async def reading_result() -> Object:
    """Return a job whose pod ended while no operator ran, and was deleted before one started."""
    async with bench() as made:
        pods = await made.pods_of_new_job()
        made.world.say(pods[0], run_of(await made.world.status()))
        await made.reconcile_until(lambda s: s.phase == Phase.TRAINING)
        await made.succeed_unseen(pods)
        await made.reconcile_until(lambda s: condition(s, "Reconciling")[1] == "ReadingResult")
        return await made.world.job()


SCENES["reading-result"] = reading_result


@scene()
async def complete(world: World) -> Object:
    await completed(world)
    return await world.job()


@scene()
async def failed(world: World) -> Object:
    job = await running(world)
    error = "dataset.uri: workspace://contracts/train.jsonl is not there"
    words = last_words(job.pod, job.run, 76, error=error, error_time=1.0, log=("loading", "gone"))
    world.driver.finish(job.pod, 76, words)
    await world.until(lambda s: s.phase == Phase.FAILED)
    return await world.job()


# ---- several attempts ------------------------------------------------------------------------------------------------


@scene()
async def restarting(world: World) -> Object:
    """Return a job whose next attempt is delayed, as it is from the second counted failure on."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    for attempt in (1, 2):
        (pod,) = await world.pods_of_attempt(attempt, 1)
        world.driver.finish(pod, 79, last_words(pod, run_of(await world.status()), 79, error="no step for 10 minutes"))
    await world.until(lambda s: s.phase == Phase.RESTARTING and run_of(s).not_before)
    return await world.job()


@scene()
async def second_attempt(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods_of_attempt(1, 1)
    world.driver.evict(pod)
    (pod,) = await world.pods_of_attempt(2, 1)
    world.say(pod, run_of(await world.status()), step=3)
    await world.until(lambda s: s.phase == Phase.TRAINING)
    return await world.job()


@scene(modes=("ReadWriteOnce",))
async def volume_attached_elsewhere(world: World) -> Object:
    """Return a job that lost the node to which its volume is attached."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods_of_attempt(1, 1)
    world.driver.lose_node(pod["spec"]["nodeName"])
    await world.until(lambda s: s.conditions and condition(s, "Reconciling") == ("True", "VolumeAttachedElsewhere"))
    return await world.job()


@scene()
async def failed_after_restarts(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.faultTolerance": {"maxRestarts": 1}}))
    for attempt in (1, 2):
        (pod,) = await world.pods_of_attempt(attempt, 1)
        world.driver.finish(pod, 1)
    await world.until(lambda s: s.phase == Phase.FAILED)
    return await world.job()


@scene()
async def failed_by_deadline(world: World) -> Object:
    """Return a job whose attempts seem to have run for an hour."""
    await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.faultTolerance": {"activeMinutes": 1}}))
    await world.until(lambda s: s.phase == Phase.STARTING)
    await world.cluster.put_status(FINETUNEJOBS, changed(await world.job(), {"status.run.activeSeconds": 3600}))
    await world.until(lambda s: s.phase == Phase.FAILED)
    return await world.job()


@scene()
async def diverged(world: World) -> Object:
    job = await trained(world)
    error = "training.learningRate: the loss or its gradient was not finite in 11 steps in a row up to step 14"
    words = last_words(
        job.pod, job.run, 77, error=error, error_time=1.0, rows=("train.jsonl:7",), checkpoint=CHECKPOINT
    )
    world.driver.finish(job.pod, 77, words)
    await world.until(lambda s: s.phase == Phase.FAILED)
    return await world.job()


@scene()
async def retried(world: World) -> Object:
    """Return a failed job whose retrain.request was changed."""
    job = await running(world)
    world.driver.finish(job.pod, 77)
    await world.until(lambda s: s.phase == Phase.FAILED)
    await world.edit(**{"spec.retrain.request": "with mended data"})
    await world.until(lambda s: s.run and s.run.number == 2 and s.phase == Phase.STARTING)
    return await world.job()


@scene()
async def replaced(world: World) -> Object:
    """Return a job of which an edit has ended the run, before the next run begins."""
    await trained(world)
    edit = {"spec.training.epochs": 2, "spec.retrain.whileRunning": "Replace"}
    return await passing(world, Phase.FAILED, world.edit(**edit))


# ---- suspended -------------------------------------------------------------------------------------------------------


@scene()
async def suspending(world: World) -> Object:
    """Return a suspended job whose pod uses its grace period."""
    world.driver.sigterm_exit_code = None
    await trained(world)
    await world.edit(**{"spec.suspend": True})
    await world.until(lambda s: s.phase == Phase.SUSPENDING)
    return await world.job()


@scene()
async def suspended(world: World) -> Object:
    await trained(world)
    await world.edit(**{"spec.suspend": True})
    await world.until(lambda s: s.phase == Phase.SUSPENDED)
    return await world.job()


@scene()
async def suspended_from_the_beginning(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.suspend": True}))
    await world.until(lambda s: s.phase == Phase.SUSPENDED)
    return await world.job()


@scene()
async def suspended_when_complete(world: World) -> Object:
    """Return a complete job that was then suspended, which changes nothing."""
    await completed(world)
    await world.edit(**{"spec.suspend": True})
    await world.until(lambda s: s.observed_generation == 2)
    return await world.job()


@scene()
async def resumed(world: World) -> Object:
    await trained(world)
    await world.edit(**{"spec.suspend": True})
    await world.until(lambda s: s.phase == Phase.SUSPENDED)
    await world.edit(**{"spec.suspend": False})
    await world.until(lambda s: s.phase == Phase.STARTING)
    return await world.job()


# ---- waiting for a user ----------------------------------------------------------------------------------------------


@scene()
async def invalid_spec(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest(**UNREADABLE))
    return await stalled(world, "InvalidSpec")


@scene(admission=None)
async def invalid_status(world: World) -> Object:
    """Return a job whose status was overwritten with a value that the schema accepts."""
    await running(world)
    await world.cluster.put_status(FINETUNEJOBS, changed(await world.job(), {"status.run.startTime": "yesterday"}))
    return await stalled(world, "InvalidStatus")


@scene(automatic=False)
async def name_conflict(world: World) -> Object:
    job = await world.cluster.create(FINETUNEJOBS, manifest())
    name = f"clauses-{job['metadata']['uid'].replace('-', '')[:5]}-1-1"
    metadata = {"name": name, "namespace": "default"}
    await world.cluster.create(CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    return await stalled(world, "NameConflict")


@scene(modes=None)
async def claim_not_found(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await waiting(world, "ClaimNotFound")


@scene(modes=None)
async def claim_being_deleted(world: World) -> Object:
    metadata = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes.io/pvc-protection"]}
    found = claim("finetune", "ReadWriteMany")
    await world.cluster.create(CLAIMS, {**found, "metadata": {**found["metadata"], **metadata}})
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await waiting(world, "ClaimBeingDeleted")


@scene()
async def claim_lost(world: World) -> Object:
    found = await world.cluster.get(CLAIMS, "default", "finetune")
    world.cluster.update(CLAIMS, {**found, "status": {"phase": "Lost"}})
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await stalled(world, "ClaimLost")


@scene(modes=("ReadWriteOnce",))
async def volume_not_shared(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
    return await stalled(world, "VolumeNotShared")


@scene()
async def refused(world: World) -> Object:
    create = world.cluster.create

    async def with_quota(resource: Resource, obj: Object) -> Object:
        if resource == CONFIGMAPS:
            raise ForbiddenError(
                403, "Forbidden", "exceeded quota: parts, requested: configmaps=1, limited: configmaps=1"
            )
        return await create(resource, obj)

    world.cluster.create = with_quota  # type: ignore[method-assign]
    await world.cluster.create(FINETUNEJOBS, manifest())
    return await stalled(world, "Refused")


# ---- edited ----------------------------------------------------------------------------------------------------------


@scene()
async def edited_while_training(world: World) -> Object:
    """Return a job whose current run does not have the newest generation."""
    job = await trained(world)
    await edited(world, "training", epochs=2)
    world.say(job.pod, job.run, step=9)
    await world.until(lambda s: s.progress and s.progress.step == 9)
    return await world.job()


@scene()
async def edited_when_complete(world: World) -> Object:
    """Return a job whose status still describes the previous generation."""
    await completed(world)
    return await edited(world, "training", epochs=2)


@scene()
async def edited_to_the_same_recipe(world: World) -> Object:
    await completed(world)
    await edited(world, "resources", memory="8Gi")
    await world.until(lambda s: s.observed_generation == 2)
    return await world.job()


@scene()
async def complete_after_its_time(world: World) -> Object:
    """Return a complete job whose children `ttlSecondsAfterFinished` has deleted."""
    await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.ttlSecondsAfterFinished": 0}))
    await world.succeed(await world.pods_of_attempt(1, 1))
    await world.until(lambda s: s.phase == Phase.COMPLETE)
    async with asyncio.timeout(10):
        while await world.cluster.list(JOBS, "default"):
            await asyncio.sleep(0.005)
    return await world.job()


@scene()
async def edited_to_an_invalid_spec(world: World) -> Object:
    await completed(world)
    await edited(world, "model", uri=UNREADABLE["spec.model.uri"])
    return await stalled(world, "InvalidSpec")


@scene()
async def second_run(world: World) -> Object:
    """Return a job that trains again after an edit of its recipe; the first run's model no longer counts."""
    await completed(world)
    await edited(world, "training", epochs=2)
    await world.until(lambda s: s.run and s.run.number == 2 and s.phase == Phase.STARTING)
    return await world.job()
