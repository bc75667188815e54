"""FineTuneJobs in every phase, one scene each: the real operator over the in-memory cluster, pods scripted.

A scene's name is the recording's (`tests/support/recorded/<name>.yaml`). To add one, write it here, give its verdict in
`test_health.py`, and run `make record`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NamedTuple

from support.clusters import World, condition, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.api.v1alpha1 import RunStatus
from finetune_operator.constants import Phase
from finetune_operator.protocol import (
    CLAIMS,
    CONFIGMAPS,
    FINETUNEJOBS,
    ForbiddenError,
    Object,
    Resource,
)
from finetune_trainer.contract import Phase as RankPhase

Scene = Callable[[], Awaitable[Object]]
SCENES: dict[str, Scene] = {}
TWO_NODES = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}
UNREADABLE = {"spec.model.uri": "file:///srv/model"}
"""What the schema lets pass and the operator refuses."""


class Running(NamedTuple):
    """A job whose only pod runs."""

    pod: Object
    run: RunStatus


def scene(automatic: bool = True) -> Callable[[Callable[[World], Awaitable[Object]]], Scene]:
    """The function under its name in SCENES, with a cluster of its own."""

    def register(play: Callable[[World], Awaitable[Object]]) -> Scene:
        @wraps(play)
        async def played() -> Object:
            async with operated(automatic=automatic) as world:
                return await play(world)

        SCENES[play.__name__.replace("_", "-")] = played
        return played

    return register


async def running(world: World) -> Running:
    """A new job, once its pod runs."""
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    return Running(pod, run_of(await world.until(lambda s: s.phase == Phase.STARTING)))


async def trained(world: World) -> Running:
    """The job, once it trains."""
    job = await running(world)
    world.say(job.pod, job.run, step=3)
    await world.until(lambda s: s.phase == Phase.TRAINING)
    return job


async def completed(world: World) -> None:
    """Until the job is complete."""
    job = await running(world)
    world.driver.finish(job.pod, 0, last_words(job.pod, job.run))
    await world.until(lambda s: s.phase == Phase.COMPLETE)


async def stalled(world: World, reason: str) -> Object:
    """The job, once it is stalled for this reason."""
    await world.until(lambda s: s.conditions and condition(s, "Stalled") == ("True", reason))
    return await world.job()


async def edited(world: World, field: str, **values: Any) -> Object:
    """The job as the edit leaves it, before the operator has seen it."""
    job = await world.job()
    job["spec"][field] = {**job["spec"].get(field, {}), **values}
    return await world.cluster.replace(FINETUNEJOBS, job)


# ---- one run ---------------------------------------------------------------------------------------------------------


@scene()
async def created(world: World) -> Object:
    return await world.cluster.create(FINETUNEJOBS, manifest())


@scene(automatic=False)
async def pending(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest())
    (pod,) = await world.pods(1)
    world.driver.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    await world.until(lambda s: "Insufficient" in next(c.message for c in s.conditions if c.type == "Ready"))
    return await world.job()


@scene()
async def starting(world: World) -> Object:
    await running(world)
    return await world.job()


@scene()
async def training(world: World) -> Object:
    await trained(world)
    return await world.job()


@scene()
async def exporting(world: World) -> Object:
    job = await running(world)
    world.say(job.pod, job.run, phase=RankPhase.EXPORT, step=30)
    await world.until(lambda s: s.phase == Phase.EXPORTING)
    return await world.job()


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


# ---- nothing goes on until somebody acts -----------------------------------------------------------------------------


@scene()
async def invalid_spec(world: World) -> Object:
    await world.cluster.create(FINETUNEJOBS, manifest(**UNREADABLE))
    return await stalled(world, "InvalidSpec")


@scene(automatic=False)
async def name_conflict(world: World) -> Object:
    job = await world.cluster.create(FINETUNEJOBS, manifest())
    name = f"clauses-{job['metadata']['uid'].replace('-', '')[:5]}-1-1"
    metadata = {"name": name, "namespace": "default"}
    await world.cluster.create(CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    return await stalled(world, "NameConflict")


@scene()
async def volume_not_shared(world: World) -> Object:
    metadata = {"name": "finetune", "namespace": "default"}
    spec = {"accessModes": ["ReadWriteOnce"]}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
    await world.cluster.create(CLAIMS, claim)
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
    """The run that goes on is not of the newest generation."""
    job = await trained(world)
    await edited(world, "training", epochs=2)
    world.say(job.pod, job.run, step=9)
    await world.until(lambda s: s.progress and s.progress.step == 9)
    return await world.job()


@scene()
async def edited_when_complete(world: World) -> Object:
    """The status still speaks of the generation before."""
    await completed(world)
    return await edited(world, "training", epochs=2)


@scene()
async def edited_to_the_same_recipe(world: World) -> Object:
    await completed(world)
    await edited(world, "resources", memory="8Gi")
    await world.until(lambda s: s.observed_generation == 2)
    return await world.job()


@scene()
async def edited_to_an_invalid_spec(world: World) -> Object:
    await completed(world)
    await edited(world, "model", uri=UNREADABLE["spec.model.uri"])
    return await stalled(world, "InvalidSpec")


@scene()
async def second_run(world: World) -> Object:
    """A changed recipe trains again; the first run's model is no news any more."""
    await completed(world)
    await edited(world, "training", epochs=2)
    await world.until(lambda s: s.run and s.run.number == 2 and s.phase == Phase.STARTING)
    return await world.job()
