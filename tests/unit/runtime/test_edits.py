"""An edit repairs a job that cannot start, whatever it waits for. The whole operator runs; the pods are scripted."""

from __future__ import annotations

from support.clusters import World, claim, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.constants import Phase
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import CLAIMS, CONFIGMAPS, FINETUNEJOBS, JOBS, PODS, ForbiddenError, Object, Resource

NODES = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."


async def trains_and_completes(world: World, attempt: int, count: int = 1) -> list[Object]:
    """Return the pods of the attempt, after they have run and completed."""
    pods = await world.pods_of_attempt(attempt, count)
    for pod in pods:
        world.driver.schedule(pod)
        world.driver.run(pod)
        world.say(pod, run_of(await world.status()))
    await world.until(lambda s: s.phase == Phase.TRAINING)
    await world.succeed(pods)
    await world.until(lambda s: s.phase == Phase.COMPLETE)
    return pods


async def test_a_node_selector_that_no_node_has_is_corrected() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.podTemplate.nodeSelector": {"zone": "nowhere"}}))
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.unschedulable(pod, NODES)
        await world.until(lambda s: pod["metadata"]["name"] in s.conditions[0].message)
        await world.edit(**{"spec.podTemplate.nodeSelector": {"zone": "here"}})
        (pod,) = await trains_and_completes(world, attempt=2)
        assert pod["spec"]["nodeSelector"] == {"zone": "here"}
        status = await world.status()
        assert [(e.class_, e.counted) for e in status.ledger] == [("Edited", False), ("Success", False)]
        assert status.observed_generation == 2


async def test_an_image_that_cannot_be_pulled_is_corrected() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.image": "localhost/nope:1"}))
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.schedule(pod)
        world.driver.wait(pod, "ErrImagePull", "no such image")
        await world.until(lambda s: "ErrImagePull" in s.conditions[0].message)
        await world.edit(**{"spec.image": "localhost/trainer:1"})
        (pod,) = await trains_and_completes(world, attempt=2)
        assert pod["spec"]["containers"][0]["image"] == "localhost/trainer:1"


async def test_resources_above_a_quota_are_lowered() -> None:
    def with_quota(resource: Resource, obj: Object) -> Object:
        if resource == PODS and obj["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Gi":
            raise ForbiddenError(403, "Forbidden", "exceeded quota: team")
        return admit(resource, obj)

    async with operated(automatic=False, admission=with_quota) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.resources.memory": "64Gi"}))
        await world.until(lambda s: s.run and s.run.job_uid)
        await world.edit(**{"spec.resources.memory": "8Gi"})
        (pod,) = await trains_and_completes(world, attempt=2)
        assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"


async def test_nodes_that_are_edited_while_the_job_is_suspended_are_those_with_which_it_goes_on() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.suspend": True})
        await world.until(lambda s: s.phase == Phase.SUSPENDED)
        await world.edit(**{"spec.resources.nodes": 2})
        await world.until(lambda s: s.observed_generation == 3)
        await world.edit(**{"spec.suspend": False})
        await trains_and_completes(world, attempt=3, count=2)
        assert [e.class_ for e in (await world.status()).ledger] == ["Suspended", "Edited", "Success"]


async def test_a_claim_that_pods_of_an_earlier_run_hold_is_exchanged_for_another() -> None:
    async with operated(automatic=False, modes=("ReadWriteOnce",)) as world:
        await world.cluster.create(CLAIMS, claim("other", "ReadWriteOnce"))
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.schedule(pod, "node-0")
        world.driver.lose_node("node-0")
        await world.until(lambda s: "holds it on node node-0" in s.conditions[0].message)
        await world.edit(**{"spec.storage.claimName": "other"})
        await world.until(lambda s: s.run and s.run.claim_name == "other")
        world.driver.return_node("node-0")
        (pod,) = await trains_and_completes(world, attempt=3)
        assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "other"


async def test_an_edit_during_the_back_off_starts_its_attempt_at_once() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.image": "localhost/trainer:0"}))
        for attempt in (1, 2):  # a delay follows the second counted failure
            (pod,) = await world.pods_of_attempt(attempt, 1)
            world.driver.schedule(pod)
            world.driver.finish(pod, 1)
        waiting = await world.until(lambda s: s.run and s.run.attempt == 3)
        assert run_of(waiting).not_before
        await world.edit(**{"spec.image": "localhost/trainer:1"})
        await trains_and_completes(world, attempt=4)
        assert [e.class_ for e in (await world.status()).ledger] == ["Infrastructure"] * 2 + ["Edited", "Success"]


async def test_another_model_is_another_run_before_anything_was_trained() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.unschedulable(pod, NODES)
        await world.edit(**{"spec.training.seed": 2})
        status = await world.until(lambda s: s.run and s.run.number == 2 and s.run.job_uid)
        assert [(e.class_, e.message) for e in status.ledger] == [
            ("Replaced", "the spec was edited before training began")
        ]
        (config,) = await world.cluster.list(CONFIGMAPS, "default")
        assert '"seed":2' in config["data"]["run.json"]
        (job,) = await world.cluster.list(JOBS, "default")
        assert job["metadata"]["name"].endswith("-2-1")


async def test_an_edit_of_a_run_that_trains_is_told_to_wait_and_later_attempts_keep_the_spec_of_the_run() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.resources.memory": "8Gi"}))
        (pod,) = await world.pods_of_attempt(1, 1)
        world.say(pod, run_of(await world.status()))
        await world.until(lambda s: s.phase == Phase.TRAINING)
        await world.edit(**{"spec.resources.memory": "16Gi"})
        waits = "the edit of generation 2 waits for the end of this run (retrain.whileRunning: Finish)"
        told = await world.until(lambda s: waits in s.conditions[0].message)
        assert (told.phase, told.observed_generation) == (Phase.TRAINING, 1)
        world.driver.finish(pod, 1, last_words(pod, run_of(told), 1, step=7))
        (pod,) = await world.pods_of_attempt(2, 1)
        assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
