"""No pod is started before its claims exist. The tests use the in-memory cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.clusters import World, claim, condition, operated, run_of
from support.manifests import manifest

from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.constants import Phase
from finetune_operator.core.decisions import between_attempts, decision
from finetune_operator.protocol import CLAIMS, FINETUNEJOBS, JOBS, PODS


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decision, between_attempts):
        monkeypatch.setattr(module, "LOOK_AT_CLAIM", 0.02)


def waits(status: FineTuneJobStatus) -> bool:
    return bool(status.conditions) and condition(status, "Ready") == ("False", "ClaimNotFound")


async def create_claim(world: World, name: str) -> None:
    await world.cluster.create(CLAIMS, claim(name, "ReadWriteMany"))


@pytest.mark.parametrize(
    ("uri", "field", "name"),
    [("workspace://clauses.jsonl", "storage.claimName", "finetune"), ("pvc://corpus/a.jsonl", "dataset.uri", "corpus")],
)
async def test_a_job_whose_claim_comes_later_starts_by_itself(uri: str, field: str, name: str) -> None:
    async with operated(modes=None if name == "finetune" else ("ReadWriteMany",)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.dataset.uri": uri}))
        waiting = await world.until(waits)
        assert waiting.conditions[0].message.startswith(f"{field}: there is no claim {name} in namespace default")
        assert (waiting.phase, waiting.run) == (Phase.PENDING, None)
        assert await world.cluster.list(JOBS, "default") == []
        await create_claim(world, name)
        await world.pods_of_attempt(1, 1)


async def first_fails(world: World) -> None:
    (pod,) = await world.cluster.list(PODS, "default")
    world.driver.finish(pod, 1)


async def first_is_evicted(world: World) -> None:
    (pod,) = await world.cluster.list(PODS, "default")
    world.driver.evict(pod)


@pytest.mark.parametrize("ends", [first_fails, first_is_evicted])
async def test_the_next_attempt_waits_for_a_claim_that_was_deleted(ends: Callable[[World], object]) -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        await world.cluster.delete(CLAIMS, "default", "finetune")
        await ends(world)  # type: ignore[misc]
        waiting = await world.until(lambda s: waits(s) and run_of(s).attempt == 2)
        assert waiting.phase == Phase.RESTARTING
        names = [job["metadata"]["name"][-4:] for job in await world.cluster.list(JOBS, "default")]
        assert "-1-2" not in names
        await create_claim(world, "finetune")
        await world.pods_of_attempt(2, 1)


async def test_a_suspended_job_does_not_ask_for_its_claim() -> None:
    async with operated(modes=None) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.suspend": True}))
        await world.until(lambda s: s.phase == Phase.SUSPENDED)


async def test_a_job_that_waits_is_written_once() -> None:
    async with operated(modes=None) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.until(waits)
        version = (await world.job())["metadata"]["resourceVersion"]
        await world.cluster.create(FINETUNEJOBS, manifest("later", **{"spec.suspend": True}))
        await world.until(lambda s: s.phase == Phase.SUSPENDED, "later")
        assert (await world.job())["metadata"]["resourceVersion"] == version
