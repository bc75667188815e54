"""What the operator does after failures: new attempts, suspension, edits and ttl, on the in-memory cluster."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from support.clusters import SETTINGS, condition, last_words, operated, run_of
from support.manifests import changed, manifest

from finetune_operator.constants import Phase
from finetune_operator.core.run.naming import child_name
from finetune_operator.core.settings import Network, Settings
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, NETWORKPOLICIES, PODS, SERVICES
from finetune_trainer.contract import CheckpointReport, RunConfig

TWO_NODES = {"spec.resources": {"nodes": 2, "gpusPerNode": 0}}


async def test_a_lost_pod_starts_a_new_attempt_that_completes() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        first = await world.pods_of_attempt(1, 2)
        world.driver.finish(first[1], 1)
        second = await world.pods_of_attempt(2, 2)
        assert {p["metadata"]["uid"] for p in first}.isdisjoint(p["metadata"]["uid"] for p in second)
        await world.succeed(second)
        complete = await world.until(lambda s: s.phase == Phase.COMPLETE)
        assert [(e.attempt, e.class_, e.counted) for e in complete.ledger] == [
            (1, "Infrastructure", True), (2, "Success", False),
        ]  # fmt: skip


async def test_pods_without_a_node_that_a_queue_took_back_are_forgotten_when_it_resumes_the_job() -> None:
    async with operated(automatic=False) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
        await world.until(lambda s: condition(s, "Ready")[1] == "Unschedulable")
        name = child_name("clauses", (await world.job())["metadata"]["uid"], 1, 1)
        await world.suspend_job(name, suspend=True)
        await world.until(lambda s: condition(s, "Ready")[1] == "Queued")
        await world.suspend_job(name, suspend=False)
        await world.until(lambda s: condition(s, "Ready")[1] == "Pending")
        (resumed,) = await world.pods(1)
        world.driver.schedule(resumed)
        world.driver.run(resumed)
        await world.succeed([resumed])
        complete = await world.until(lambda s: s.phase == Phase.COMPLETE)
        assert [(entry.attempt, entry.class_) for entry in complete.ledger] == [(1, "Success")]


async def test_the_attempt_before_stays_for_its_logs_and_older_ones_go() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods_of_attempt(1, 2)
        world.driver.evict(pods[0])
        pods = await world.pods_of_attempt(2, 2)
        world.driver.finish(pods[0], 1)
        await world.pods_of_attempt(3, 2)
        for resource in (JOBS, CONFIGMAPS, SERVICES):
            names = [child["metadata"]["name"] for child in await world.cluster.list(resource, "default")]
            assert [name[-4:] for name in names] == ["-1-2", "-1-3"], resource.kind


async def test_the_log_of_a_failed_pod_stays_while_the_next_attempt_is_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.core.attempt.restart.FIRST_DELAY", 2.0)
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        for attempt in (1, 2):
            (pod,) = await world.pods_of_attempt(attempt, 1)
            world.driver.finish(pod, 1)
        delayed = await world.until(lambda s: s.run and s.run.attempt == 3)
        assert run_of(delayed).not_before
        await world.edit(
            **{"spec.ttlSecondsAfterFinished": 7}
        )  # a live observation follows, so it has happened when the generation is observed
        await world.until(lambda s: s.observed_generation == 2)
        jobs = [job["metadata"]["name"][-4:] for job in await world.cluster.list(JOBS, "default")]
        assert "-1-2" in jobs


async def test_the_budget_of_restarts_is_kept_and_the_run_fails() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.faultTolerance": {"maxRestarts": 1}}))
        for attempt in (1, 2):
            (pod,) = await world.pods_of_attempt(attempt, 1)
            world.driver.finish(pod, 1)
        failed = await world.until(lambda s: s.phase == Phase.FAILED)
        assert [entry.counted for entry in failed.ledger] == [True, True]
        assert "maxRestarts is 1 in 60 minutes" in failed.ledger[-1].message
        assert condition(failed, "Stalled") == ("True", "Failed")


async def test_out_of_memory_is_answered_by_smaller_plans_and_the_ledger_says_so() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.training.globalBatchSize": 2}))
        plans = []
        for attempt in (1, 2, 3):
            (pod,) = await world.pods_of_attempt(attempt, 1)
            run = run_of(await world.status())
            config = await world.cluster.get(CONFIGMAPS, "default", pod["metadata"]["labels"]["job-name"])
            training = RunConfig.model_validate_json(config["data"]["run.json"]).training
            plans.append((training.global_batch_size, training.micro_batch_size, training.activation_checkpointing))
            world.driver.finish(pod, 78, last_words(pod, run, 78, error="out of memory", error_time=1.0))
        failed = await world.until(lambda s: s.phase == Phase.FAILED)
        assert plans == [(2, 2, False), (2, 1, False), (2, 1, True)]
        assert [(entry.class_, entry.counted) for entry in failed.ledger] == 3 * [("OutOfMemory", False)]
        assert "takes 1 instead of 2 rows in a forward pass, at the same global batch" in failed.ledger[0].message
        assert "computes activations again" in failed.ledger[1].message
        assert "is the smallest plan" in failed.ledger[2].message


async def test_a_suspended_job_gives_its_pods_back_and_goes_on_in_an_uncounted_attempt() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.suspend": True})
        suspended = await world.until(lambda s: s.phase == Phase.SUSPENDED)
        assert await world.cluster.list(PODS, "default") == []
        assert condition(suspended, "Suspended") == ("True", "Suspended")
        assert condition(suspended, "Ready") == ("False", "Suspended")
        assert condition(suspended, "Reconciling")[0] == "False"
        assert suspended.observed_generation == 2
        await world.edit(**{"spec.suspend": False})
        pods = await world.pods_of_attempt(2, 1)
        await world.succeed(pods)
        complete = await world.until(lambda s: s.phase == Phase.COMPLETE)
        assert [(e.class_, e.counted) for e in complete.ledger] == [("Suspended", False), ("Success", False)]


async def test_a_job_that_is_suspended_from_the_beginning_starts_nothing() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.suspend": True}))
        suspended = await world.until(lambda s: s.phase == Phase.SUSPENDED)
        assert suspended.run is None
        assert await world.cluster.list(JOBS, "default") == []
        await world.edit(**{"spec.suspend": False})
        await world.pods_of_attempt(1, 1)


async def test_a_job_suspended_by_a_queue_starts_another_attempt_uncounted() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await world.pods_of_attempt(1, 1)
        await world.until(lambda s: s.phase == Phase.STARTING)
        (job,) = await world.cluster.list(JOBS, "default")
        await world.cluster.put(JOBS, changed(job, {"spec.suspend": True}))
        await world.pods_of_attempt(2, 1)
        status = await world.status()
        assert (status.ledger[0].class_, status.ledger[0].counted) == ("Suspended", False)


async def test_an_edit_waits_for_the_end_of_the_run_whose_later_attempts_keep_their_own_spec() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.training.seed": 1}))
        (pod,) = await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.training.seed": 2})
        world.driver.finish(pod, 1)
        pods = await world.pods_of_attempt(2, 1)
        config = await world.cluster.get(CONFIGMAPS, "default", pods[0]["metadata"]["labels"]["job-name"])
        assert '"seed":1' in config["data"]["run.json"]
        assert (await world.status()).observed_generation == 1
        await world.succeed(pods)
        following = await world.until(lambda s: s.run and s.run.number == 2)
        assert (run_of(following).generation, run_of(following).attempt) == (2, 1)


async def test_no_attempt_of_several_nodes_follows_with_an_edited_spec_when_the_own_one_is_lost() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES, **{"spec.training.seed": 1}))
        pods = await world.pods_of_attempt(1, 2)
        await world.cluster.delete(CONFIGMAPS, "default", pods[0]["metadata"]["labels"]["job-name"])
        await world.edit(**{"spec.training.seed": 2})
        world.driver.finish(pods[1], 1)
        status = await world.until(lambda s: s.run and s.run.number == 2 and s.run.job_uid)
        assert [(e.attempt, e.class_) for e in status.ledger] == [(1, "Infrastructure"), (2, "Replaced")]


async def test_replace_ends_the_run_at_once() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.training.seed": 1}))
        await world.pods_of_attempt(1, 1)
        await world.edit(**{"spec.training.seed": 2, "spec.retrain": {"whileRunning": "Replace"}})
        status = await world.until(lambda s: s.run and s.run.number == 2 and s.run.job_uid)
        assert (status.ledger[0].class_, status.ledger[0].counted) == ("Replaced", False)
        (job,) = await world.cluster.list(JOBS, "default")
        assert job["metadata"]["name"].endswith("-2-1")


async def test_a_failed_job_is_tried_again_by_a_changed_request_and_by_no_budget() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.finish(pod, 76)
        await world.until(lambda s: s.phase == Phase.FAILED)
        await world.edit(**{"spec.faultTolerance": {"maxRestarts": 9}, "spec.ttlSecondsAfterFinished": 3600})
        await world.until(lambda s: s.observed_generation == 2)
        assert run_of(await world.status()).number == 1
        await world.edit(**{"spec.retrain": {"request": "again"}})
        await world.until(lambda s: s.run and s.run.number == 2)


async def test_after_its_time_the_children_go_and_the_job_stays_as_it_is() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.ttlSecondsAfterFinished": 0}))
        (pod,) = await world.pods_of_attempt(1, 1)
        await world.succeed([pod])
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        await world.gone(JOBS, SERVICES, CONFIGMAPS, PODS)
        before = await world.job()
        await world.cluster.idle()
        assert await world.job() == before


async def test_after_its_time_the_network_policy_goes_too_and_the_next_run_makes_it_again() -> None:
    async with operated(replace(SETTINGS, network=Network())) as world:
        await world.cluster.create(FINETUNEJOBS, manifest(**{"spec.ttlSecondsAfterFinished": 0}))
        (pod,) = await world.pods_of_attempt(1, 1)
        assert len(await world.cluster.list(NETWORKPOLICIES, "default")) == 1
        await world.succeed([pod])
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        await world.gone(JOBS, SERVICES, CONFIGMAPS, NETWORKPOLICIES)
        await world.edit(**{"spec.training.seed": 2})
        await world.until(lambda s: s.run and s.run.number == 2 and s.run.job_uid)
        assert len(await world.cluster.list(NETWORKPOLICIES, "default")) == 1


async def test_after_its_time_the_rest_goes_though_somebody_has_deleted_the_job() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        await world.succeed([pod])
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        await world.cluster.delete(JOBS, "default", pod["metadata"]["labels"]["job-name"])
        await world.edit(**{"spec.ttlSecondsAfterFinished": 0})
        await world.gone(JOBS, SERVICES, CONFIGMAPS, PODS)


async def test_the_children_of_a_run_go_before_the_next_one_starts() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        world.driver.finish(pod, 1)
        (pod,) = await world.pods_of_attempt(2, 1)
        await world.succeed([pod])
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        await world.edit(**{"spec.training.seed": 2})
        await world.until(lambda s: s.run and s.run.number == 2 and s.run.job_uid)
        for resource in (JOBS, SERVICES, CONFIGMAPS):
            assert [
                o["metadata"]["labels"]["finetune.dev/run"] for o in await world.cluster.list(resource, "default")
            ] == ["2"]


async def test_a_part_of_a_gang_gives_way_without_being_counted() -> None:
    async with operated(Settings(**SETTINGS.__dict__), automatic=False) as world:
        tolerance = {"spec.faultTolerance": {"gangMinutes": 1}}
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES, **tolerance))
        pods = await world.pods(2)
        world.driver.schedule(pods[0])
        world.driver.unschedulable(pods[1], "0/1 nodes are available")
        await world.until(lambda s: s.phase == Phase.STARTING)
        assert "0/1 nodes are available" in next(
            c.message for c in (await world.status()).conditions if c.type == "Ready"
        )


SAVED = CheckpointReport(step=20, time=1_800_000_000, bytes=1_200_000, save_seconds=60.5)


async def test_the_next_attempt_goes_on_from_the_checkpoint_with_a_grace_that_fits_it() -> None:
    async with operated() as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (first,) = await world.pods_of_attempt(1, 1)
        assert first["spec"]["terminationGracePeriodSeconds"] == 300
        run = run_of(await world.status())
        world.say(first, run, step=25, figures={"step_seconds": 4.0}, checkpoint=SAVED)
        told = await world.until(lambda s: s.checkpoint)
        assert told.checkpoint
        assert (told.checkpoint.step, told.checkpoint.bytes, told.checkpoint.save_seconds) == (20, 1_200_000, 60.5)
        assert condition(told, "TrainingHealthy") == ("True", "Healthy")
        later = SAVED.model_copy(update={"step": 24})
        words = last_words(first, run, 1, error="the node's disk is gone", error_time=1.0, step=25, checkpoint=later)
        world.driver.finish(first, 1, words)
        (second,) = await world.pods_of_attempt(2, 1)
        assert second["spec"]["terminationGracePeriodSeconds"] == 125
        after = await world.status()
        assert (after.ledger[0].step, after.ledger[0].checkpoint_step) == (25, 24)
        assert (run_of(after).checkpoint_step, run_of(after).grace_seconds) == (24, 125)
        folders = [
            RunConfig.model_validate_json(config["data"]["run.json"]).folder
            for config in await world.cluster.list(CONFIGMAPS, "default")
        ]
        assert len(set(folders)) == 1, "attempts of one run share its folder"


async def test_a_pod_that_stops_in_order_is_waited_for_and_its_checkpoint_is_in_the_ledger() -> None:
    async with operated(Settings(**{**SETTINGS.__dict__, "settle": 3})) as world:
        world.driver.sigterm_exit_code = None
        await world.cluster.create(FINETUNEJOBS, manifest(**TWO_NODES))
        pods = await world.pods_of_attempt(1, 2)
        run = run_of(await world.status())
        for pod in pods:
            world.say(pod, run, step=20)
        await world.until(lambda s: s.phase == Phase.TRAINING)
        await world.cluster.delete(PODS, "default", pods[1]["metadata"]["name"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await world.until(lambda s: s.ledger)
        for pod in pods:
            saved = SAVED if pod is pods[0] else None
            world.driver.finish(
                pod, 75, last_words(pod, run, 75, error="stopped on request", step=21, checkpoint=saved)
            )
        after = await world.until(lambda s: s.ledger)
        entry = after.ledger[0]
        assert (entry.class_, entry.step, entry.checkpoint_step) == ("Preempted", 21, 20)
        restarting = next(c.message for c in after.conditions if c.type == "Reconciling")
        assert "from step 20" in restarting or after.phase != Phase.RESTARTING


async def test_a_changed_request_asks_rank_0_for_a_checkpoint_until_it_is_answered() -> None:
    async with operated() as world:
        asked: list[str] = []
        answer = world.driver.answer
        world.driver.answer = lambda pod, path: (asked.append(path), answer(pod, path))[1]
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods_of_attempt(1, 1)
        run = run_of(await world.status())
        world.say(pod, run, step=3)
        await world.until(lambda s: s.phase == Phase.TRAINING)
        assert set(asked) == {"/status"}
        await world.edit(**{"spec.checkpoint": {"request": "before the weekend & now"}})
        expected = f"/status?checkpoint=before+the+weekend+%26+now&nonce={run.nonce}"
        async with asyncio.timeout(10):
            while expected not in asked:
                await asyncio.sleep(0.005)
        world.say(pod, run, step=4, checkpoint=SAVED.model_copy(update={"request": "before the weekend & now"}))
        told = await world.until(lambda s: s.checkpoint and s.checkpoint.request)
        assert run_of(told).attempt == 1, "an edit of spec.checkpoint ends no attempt"
        asked.clear()
        async with asyncio.timeout(10):
            while len(asked) < 3:
                await asyncio.sleep(0.005)
        assert set(asked[1:]) == {"/status"}
