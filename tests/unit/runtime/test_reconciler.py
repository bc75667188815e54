"""The requests of one reconcile to the API server and the agents."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from support.bench import KEY, SETTINGS, bench
from support.clusters import RESULT, condition, last_words, run_of
from support.jobs import job
from support.manifests import changed, manifest

from finetune_operator.core.run.naming import child_name
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, PODS, Object, Resource
from finetune_operator.runtime.job_memory import Because


async def test_what_happens_between_two_looks_neither_asks_the_agents_nor_writes() -> None:
    """Each write of progress queues the job again by its own event. That reconcile must not observe and write again."""
    async with bench() as made:
        pods = await made.pods_of_new_job(nodes=2)
        run = run_of(await made.world.status())
        for pod in pods:
            made.world.say(pod, run, step=1)
        await made.reconcile_until(lambda s: condition(s, "WorldReady")[0] == "True")
        asked, version = Counter(made.cluster.asked), await made.version()
        for step in range(2, 7):
            made.world.say(pods[0], run, step=step)
            assert await made.reconciler.reconcile(KEY) == SETTINGS.progress_interval
        assert (made.cluster.asked, await made.version()) == (asked, version)

        made.now += timedelta(seconds=10)
        await made.reconciler.reconcile(KEY)
        assert made.cluster.asked - asked == {"0": 1}
        assert await made.version() != version

        made.now += timedelta(seconds=60)
        await made.reconciler.reconcile(KEY)
        assert made.cluster.asked - asked == {"0": 2, "1": 1}


async def test_a_result_whose_pod_is_gone_is_read_from_the_workspace_and_nothing_is_trained_again() -> None:
    """The pods end while no operator runs, and rank 0's pod is deleted before one starts."""
    async with bench() as made:
        pods = await made.pods_of_new_job(nodes=2)
        run = run_of(await made.world.status())
        await made.succeed_unseen(pods)
        await made.reconcile_until(lambda s: condition(s, "Reconciling")[1] == "ReadingResult")
        await made.reconcile_until(lambda s: made.cluster.created["Job"] == 2)
        (look,) = [pod for pod in await made.cluster.list(PODS, "default") if "-look-" in pod["metadata"]["name"]]
        made.world.driver.finish(look, 0, last_words(pods[0], run))
        await made.reconcile_until(lambda s: s.phase == "Complete")
        complete = await made.world.status()
        assert complete.result is not None
        assert (complete.result.digest, complete.result.path) == (RESULT.digest, RESULT.path)
        assert [(entry.attempt, entry.class_) for entry in complete.ledger] == [(1, "Success")]
        assert made.cluster.created["Job"] == 2


async def test_a_refused_look_for_a_result_is_told_once_and_tried_again() -> None:
    async with bench() as made:
        pods = await made.pods_of_new_job()
        await made.succeed_unseen(pods)
        made.cluster.refused = JOBS.kind
        await made.reconcile_until(lambda s: condition(s, "Stalled") == ("True", "Refused"))
        version = await made.version()
        for _ in range(5):
            assert await made.reconciler.reconcile(KEY) == 60
        assert await made.version() == version
        made.cluster.refused = ""
        await made.reconcile_until(lambda s: condition(s, "Reconciling") == ("True", "ReadingResult"))


async def test_a_look_that_a_queue_never_lets_start_is_given_up() -> None:
    async with bench() as made:
        pods = await made.pods_of_new_job(**{"spec.faultTolerance": {"maxRestarts": 0}})
        await made.succeed_unseen(pods)
        await made.reconcile_until(lambda s: condition(s, "Reconciling") == ("True", "ReadingResult"))
        made.now += timedelta(days=400)  # the cluster has its own clock
        await made.reconcile_until(lambda s: s.phase == "Failed")
        assert (await made.world.status()).ledger[-1].class_ == "Unknown"


async def test_a_quota_that_refuses_the_next_attempt_gets_the_job_of_the_one_before_back() -> None:
    async with bench() as made:
        await made.cluster.create(FINETUNEJOBS, manifest())
        await made.reconcile_until(lambda s: s.run and s.run.job_uid)
        (pod,) = await made.world.pods(1)
        made.cluster.refused = JOBS.kind
        made.world.driver.finish(pod, 1)
        await made.reconcile_until(lambda s: condition(s, "Stalled") == ("True", "Refused"))
        assert await made.cluster.list(JOBS, "default") == []
        made.cluster.refused = ""
        await made.reconcile_until(lambda s: s.run and s.run.attempt == 2 and s.run.job_uid)


async def test_a_refused_creation_is_tried_again_in_a_minute() -> None:
    async with bench() as made:
        await made.cluster.create(FINETUNEJOBS, manifest())
        made.cluster.refused = JOBS.kind
        await made.reconciler.reconcile(KEY)
        assert await made.reconciler.reconcile(KEY) == 60
        status = await made.world.status()
        assert condition(status, "Stalled") == ("True", "Refused")
        made.cluster.refused = ""
        await made.reconcile_until(lambda s: s.run and s.run.job_uid)
        assert condition(await made.world.status(), "Stalled")[0] == "False"


async def test_the_pods_of_a_job_that_only_bears_the_name_are_not_dialled() -> None:
    async with bench() as made:
        created = await made.cluster.create(FINETUNEJOBS, manifest())
        made.cluster.refused = JOBS.kind
        await made.reconciler.reconcile(KEY)
        run = run_of(await made.world.status())
        made.cluster.refused = ""
        name = child_name("clauses", created["metadata"]["uid"], run.number, run.attempt)
        await made.cluster.create(JOBS, job(name, "default", "anything", pods=1, container={"name": "trainer"}))
        (pod,) = await made.world.pods(1)
        made.world.say(pod, run)
        await made.reconcile_until(lambda s: condition(s, "Stalled") == ("True", "NameConflict"))
        assert not made.cluster.asked


async def test_an_edit_between_the_decision_and_the_start_starts_what_was_edited_and_leaves_nothing_behind() -> None:
    async with bench() as bench_:
        bench_.cluster.refused = "Service"
        await bench_.world.cluster.create(FINETUNEJOBS, manifest(**{"spec.training.seed": 1}))
        await bench_.reconcile_until(lambda s: s.run and bench_.cluster.created["ConfigMap"])
        await bench_.world.edit(**{"spec.training.seed": 2})
        bench_.cluster.refused = ""
        await bench_.reconcile_until(lambda s: s.run and s.run.number == 2 and bench_.cluster.created["Job"])
        (config,) = await bench_.cluster.list(CONFIGMAPS, "default")
        assert '"seed":2' in config["data"]["run.json"]
        assert run_of(await bench_.world.status()).generation == 2


@pytest.mark.parametrize(("finalizer", "left"), [("example.com/backup", 0), ("orphan", 1)])
async def test_a_job_whose_deletion_waits_for_a_finalizer_gives_its_pods_back(finalizer: str, left: int) -> None:
    async with bench() as made:
        await made.cluster.create(FINETUNEJOBS, manifest())
        await made.reconcile_until(lambda s: s.run and s.run.job_uid)
        held = {"metadata.deletionTimestamp": "2026-01-01T00:00:00Z", "metadata.finalizers": [finalizer]}
        get = made.cluster.get

        async def being_deleted(resource: Resource, namespace: str, name: str) -> Object:
            found = await get(resource, namespace, name)
            return changed(found, held) if resource == FINETUNEJOBS else found

        made.cluster.get = being_deleted  # type: ignore[method-assign]
        made.reconciler.memories.forget(KEY, Because.CHANGED)
        assert await made.reconciler.reconcile(KEY) is None
        assert len(await made.cluster.list(JOBS, "default")) == left
