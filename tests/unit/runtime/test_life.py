"""The life of a job as its status shows it. The whole operator runs on the in-memory cluster; the pods are scripted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.clusters import RESULT, SETTINGS, condition, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.constants import Phase
from finetune_operator.core.settings import Settings
from finetune_operator.protocol import (
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    SERVICES,
    AlreadyExistsError,
)
from finetune_trainer.contract import Phase as RankPhase
from finetune_trainer.contract import RunConfig

TWO_NODES = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}


async def test_a_job_trains_and_completes() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        starting = await world.until(lambda s: s.phase == Phase.STARTING)
        assert condition(starting, "Ready") == ("False", "PodsRunning")
        assert condition(starting, "Reconciling") == ("True", "PodsRunning")
        run = run_of(starting)
        for pod in pods:
            world.say(pod, run, step=3)
        training = await world.until(lambda s: s.phase == Phase.TRAINING)
        assert condition(training, "WorldReady") == ("True", "AllRanksAttested")
        assert training.progress is not None
        assert (training.progress.step, training.progress.total_steps, training.progress.eta) == (3, 30, "27s")
        world.say(pods[0], run, step=7)
        await world.until(lambda s: s.progress and s.progress.step == 7)
        world.say(pods[0], run, phase=RankPhase.EXPORT, step=30)
        await world.until(lambda s: s.phase == Phase.EXPORTING)
        for pod in pods:
            world.driver.finish(pod, 0, last_words(pod, run))
        complete = await world.until(lambda s: s.phase == Phase.COMPLETE)
        assert condition(complete, "Ready") == ("True", "Complete")
        assert condition(complete, "Reconciling")[0] == "False"
        assert condition(complete, "Stalled")[0] == "False"
        assert complete.result is not None
        assert complete.result.path == RESULT.path
        assert complete.evaluation is not None
        assert (complete.evaluation.base, complete.evaluation.final) == ({"accuracy": 0.2}, {"accuracy": 0.9})
        assert complete.observed_generation == 1
        reasons = {event["reason"] for event in await world.cluster.list(EVENTS, "default")}
        assert {"AllRanksAttested", "Training", "Complete"} <= reasons


async def test_the_world_is_not_ready_before_every_rank_has_attested_it() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.say(pods[0], run)
        one = await world.until(lambda s: "1 of 2 ranks" in next(c.message for c in s.conditions if c.type == "Ready"))
        assert condition(one, "WorldReady")[0] == "False"
        for wrong in ({"world": 1}, {"config_digest": "0" * 64}, {"nonce": "other"}, {"pod_uid": "other"}):
            world.say(pods[1], run, **wrong)
            for _ in range(3):
                before = len(world.answers)
                assert condition(await world.status(), "WorldReady")[0] == "False", wrong
                assert before == len(world.answers)
        world.say(pods[1], run)
        await world.until(lambda s: condition(s, "WorldReady")[0] == "True")


async def test_an_attempt_has_a_config_map_a_service_for_rank_0_and_an_indexed_job() -> None:
    async with operated() as world:
        created = await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        await world.pods(2)
        run = run_of(await world.status())
        (job,) = await world.cluster.list(JOBS, "default")
        (service,) = await world.cluster.list(SERVICES, "default")
        (config,) = await world.cluster.list(CONFIGMAPS, "default")
        name = f"clauses-{created['metadata']['uid'].replace('-', '')[:5]}-1-1"
        assert {o["metadata"]["name"] for o in (job, service, config)} == {name}
        assert service["spec"]["selector"]["batch.kubernetes.io/job-completion-index"] == "0"
        assert job["spec"]["backoffLimit"] == 0
        written = RunConfig.model_validate_json(config["data"]["run.json"])
        assert written.digest == run.config_digest
        for child in (job, service, config):
            (owner,) = child["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == (created["metadata"]["uid"], True)
            assert owner["blockOwnerDeletion"] is False
        for held in (await world.job(), job, service, config):
            assert "finalizers" not in held["metadata"]


async def test_a_failed_rank_is_named_with_class_exit_code_node_and_log() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        words = last_words(
            pods[1], run, 76, failing_rank=1, error="dataset.uri: no such file", error_time=1.0, log=("loading", "gone")
        )
        world.driver.finish(pods[1], 76, words)
        failed = await world.until(lambda s: s.phase == Phase.FAILED)
        (entry,) = failed.ledger
        assert (entry.class_, entry.exit_code, entry.rank, entry.node) == ("Invalid", 76, 1, "node-1")
        assert entry.log == ["loading", "gone"]
        assert "dataset.uri: no such file" in entry.message
        assert condition(failed, "Stalled") == ("True", "Failed")
        assert condition(failed, "Reconciling")[0] == "False"
        assert condition(failed, "Failed")[0] == "True"


async def test_the_first_to_fail_is_the_cause_though_rank_0_fails_too() -> None:
    async with operated(Settings(**{**SETTINGS.__dict__, "settle": 5})) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.driver.sigterm_exit_code = None
        world.driver.finish(pods[0], 1, last_words(pods[0], run, 1, error="connection closed by peer", error_time=20.0))
        world.driver.finish(pods[1], 78, last_words(pods[1], run, 78, error="out of memory", error_time=10.0))
        after = await world.until(lambda s: s.ledger)
        assert after.ledger[0].class_ == "OutOfMemory"
        assert after.ledger[0].message.startswith("out of memory; ")


async def test_an_evicted_pod_is_the_cause_though_nothing_is_left_of_it() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        await world.until(lambda s: s.phase == Phase.STARTING)
        world.driver.evict(pods[1])
        after = await world.until(lambda s: s.run and s.run.attempt == 2 and s.run.job_uid)
        assert (after.ledger[0].class_, after.ledger[0].counted) == ("Preempted", False)
        assert pods[1]["metadata"]["name"] in after.ledger[0].message


async def test_pods_that_all_end_well_but_leave_no_result_are_no_success() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.driver.finish(pod, 0, last_words(pod, run, result=None))
        failed = await world.until(lambda s: s.phase == Phase.FAILED)
        assert (failed.ledger[0].class_, failed.ledger[0].message) == (
            "Mismatch",
            "all pods ended well but rank 0 left no result",
        )


async def test_a_pod_that_ends_well_in_a_smaller_world_is_no_success() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods(2)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.driver.finish(pods[0], 0, last_words(pods[0], run))
        world.driver.finish(pods[1], 0, last_words(pods[1], run, world=1))
        failed = await world.until(lambda s: s.phase == Phase.FAILED)
        assert failed.ledger[0].class_ == "Mismatch"
        assert "attested world 1" in failed.ledger[0].message


async def test_a_job_that_somebody_deletes_starts_another_attempt_of_the_run() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods(1)
        run = run_of(await world.until(lambda s: s.run and s.run.job_uid))
        (job,) = await world.cluster.list(JOBS, "default")
        await world.cluster.delete(JOBS, "default", job["metadata"]["name"])
        after = await world.until(lambda s: s.run and s.run.attempt == 2 and s.run.job_uid)
        assert after.ledger[0].class_ in ("Preempted", "Unknown")
        assert run_of(after).number == run.number


async def test_deleting_the_finetunejob_removes_everything() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        await world.pods(2)
        await world.cluster.delete(FINETUNEJOBS, "default", "clauses")
        async with asyncio.timeout(10):
            for resource in (JOBS, PODS, SERVICES, CONFIGMAPS):
                while await world.cluster.list(resource, "default"):
                    await asyncio.sleep(0.005)


async def test_an_unschedulable_pod_is_pending_with_what_the_scheduler_s_words_mean() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        world.driver.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        pending = await world.until(
            lambda s: "without enough free nvidia.com/gpu" in next(c.message for c in s.conditions if c.type == "Ready")
        )
        assert pending.phase == Phase.PENDING


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"spec.model.uri": "file:///srv/model"},
            "spec.model.uri: 'file:///srv/model' is read by 'finetune run' only; put it on the claim and write workspace://path",
        ),
        (
            {"spec.deepspeed.config": {"train_batch_size": 8}},
            "spec.deepspeed.config: train_batch_size is planned by the operator; "
            "remove it and use training.globalBatchSize instead",
        ),
    ],
)
async def test_what_no_schema_can_refuse_stalls_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**changes))
        stalled = await world.until(lambda s: s.conditions)
        assert condition(stalled, "Stalled") == ("True", "InvalidSpec")
        assert next(c.message for c in stalled.conditions if c.type == "Stalled") == sentence
        assert await world.cluster.list(JOBS, "default") == []


async def test_a_mended_spec_starts_the_next_run_and_the_same_recipe_does_not() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.driver.finish(pod, 76, last_words(pod, run, 76, error="no such column"))
        await world.until(lambda s: s.phase == Phase.FAILED)

        job = await world.job()
        job["spec"]["dataset"]["columns"]["text"] = "body"
        await world.cluster.put(FINETUNEJOBS, job)
        second = run_of(await world.until(lambda s: s.run and s.run.number == 2 and s.phase == Phase.STARTING))
        (pod,) = await world.pods_of_attempt(1, 1)
        assert pod["metadata"]["labels"]["finetune.dev/run"] == "2", "what the first run left is gone"
        world.driver.finish(pod, 0, last_words(pod, second))
        await world.until(lambda s: s.phase == Phase.COMPLETE)

        job = await world.job()
        job["spec"]["resources"]["memory"] = "8Gi"
        await world.cluster.put(FINETUNEJOBS, job)
        same = await world.until(lambda s: s.observed_generation == 3)
        assert (same.phase, run_of(same).number) == (Phase.COMPLETE, 2)


async def test_a_name_that_somebody_else_has_taken_stalls() -> None:
    async with operated(automatic=False) as world:
        stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default"}, "data": {}}
        created = await world.cluster.create(FINETUNEJOBS, manifest())
        stranger["metadata"]["name"] = f"clauses-{created['metadata']['uid'].replace('-', '')[:5]}-1-1"
        try:
            await world.cluster.create(CONFIGMAPS, stranger)
        except AlreadyExistsError:
            pytest.fail("the operator ran before the stranger could")
        stalled = await world.until(lambda s: s.conditions and condition(s, "Stalled")[0] == "True")
        assert condition(stalled, "Stalled") == ("True", "NameConflict")


async def test_two_nodes_with_a_volume_for_one_stall_with_the_remedy() -> None:
    async with operated(modes=("ReadWriteOnce",)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        stalled = await world.until(lambda s: s.conditions)
        assert condition(stalled, "Stalled") == ("True", "VolumeNotShared")


async def test_a_settled_job_is_written_no_more() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.driver.finish(pod, 0, last_words(pod, run))
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        settled = (await world.job())["metadata"]["resourceVersion"]
        # The operator reconciles this job after all that was queued before it.
        await world.cluster.create(FINETUNEJOBS, manifest("other"))
        await world.until(lambda s: s.phase == Phase.STARTING, "other")
        assert (await world.job())["metadata"]["resourceVersion"] == settled
