"""Tests with unchecked objects beside a valid job: each gets its status, and the valid one completes."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

import pytest
from fuzz.amount import drawn, share
from fuzz.mutations import Object, fuzzed, mutated, stored, with_status
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import World, condition, last_words, operated, run_of
from support.manifests import manifest

from finetune_operator.api.parse import InvalidManifestError, InvalidStatusError, parse, read_status
from finetune_operator.constants import LABEL_JOB, Phase
from finetune_operator.core.observed.views import JobView, PodView
from finetune_operator.core.run.resolve import refusals
from finetune_operator.core.settings import Settings
from finetune_operator.protocol import FINETUNEJOBS, JOBS, PODS
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.job_memory import JobMemories, Key
from finetune_operator.runtime.queue import Queue

BATCH = 50
HEALTHY = "healthy"


def expected_reason(job: Object) -> str | None:
    """Return the reason of the Stalled condition if the operator must refuse the job."""
    try:
        return "InvalidSpec" if refusals(parse(job).spec, Settings(image="i")) else None
    except InvalidStatusError:
        return "InvalidStatus"
    except InvalidManifestError:
        return "InvalidSpec"


async def operate_on(jobs: dict[str, Object]) -> None:
    """Run the operator until each job has its status and the healthy one is complete."""
    async with operated(admission=None) as world:
        for job in jobs.values():
            world.cluster.store.insert(FINETUNEJOBS, job)
        await world.cluster.create(FINETUNEJOBS, manifest(HEALTHY))
        run = run_of(await world.until(lambda s: s.run and s.run.job_uid, HEALTHY))
        (pod,) = await world.cluster.list(PODS, "default", {LABEL_JOB: HEALTHY})
        world.driver.finish(pod, 0, last_words(pod, run))
        await world.until(lambda s: s.phase == Phase.COMPLETE, HEALTHY)
        for name, job in jobs.items():
            await expect_word(world, name, job)


async def expect_word(world: World, name: str, job: Object) -> None:
    expected = expected_reason(job)
    async with asyncio.timeout(20):
        while True:
            status, _ = read_status((await world.job(name)).get("status"))
            told = {c.type for c in status.conditions if c.reason and c.observed_generation == 1}
            if "Ready" in told and (expected is None or condition(status, "Stalled") == ("True", expected)):
                return
            await asyncio.sleep(0.01)


def tracebacks(records: list[logging.LogRecord]) -> list[str]:
    return [f"{record.getMessage()} {record.exc_info}" for record in records if record.exc_info]


@pytest.mark.timeout(900)
def test_a_broken_object_is_told_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    objects = [*drawn(fuzzed(), 0.15), *drawn(with_status(), 0.05)]
    jobs = {f"fuzzed-{number}": stored(job, f"fuzzed-{number}") for number, job in enumerate(objects)}
    names = list(jobs)
    for start in range(0, len(names), BATCH):
        batch = {name: jobs[name] for name in names[start : start + BATCH]}
        asyncio.run(operate_on(batch))
        assert not tracebacks(caplog.records)
        caplog.clear()


# ---- pods and Jobs --------------------------------------------------------------------------------------------------

POD: Object = {
    "metadata": {
        "name": "clauses-0b5e7-1-1-0-abcde",
        "namespace": "default",
        "uid": "pod",
        "resourceVersion": "7",
        "labels": {LABEL_JOB: "clauses", "batch.kubernetes.io/job-completion-index": "0"},
        "ownerReferences": [{"kind": "Job", "uid": "job", "controller": True}],
        "deletionTimestamp": "2026-01-01T00:00:30Z",
        "deletionGracePeriodSeconds": 30,
    },
    "spec": {"nodeName": "node-1"},
    "status": {
        "phase": "Failed",
        "podIP": "10.0.0.1",
        "reason": "Evicted",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "DisruptionTarget", "status": "True", "reason": "Eviction", "message": "m"},
        ],
        "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1}}}],
        "containerStatuses": [
            {
                "name": "trainer",
                "imageID": "sha256:0",
                "state": {
                    "waiting": {"reason": "ErrImagePull", "message": "m"},
                    "terminated": {
                        "exitCode": 1,
                        "reason": "Error",
                        "finishedAt": "2026-01-01T00:00:20Z",
                        "message": "{}",
                    },
                },
            }
        ],
    },
}
JOB: Object = {
    "metadata": {
        "name": "clauses-0b5e7-1-1",
        "namespace": "default",
        "uid": "job",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {LABEL_JOB: "clauses"},
        "ownerReferences": [{"kind": "FineTuneJob", "uid": "uid", "controller": True}],
    },
    "spec": {"parallelism": 2, "suspend": False},
    "status": {
        "completedIndexes": "0-1",
        "conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    },
}


@st.composite
def foreign(draw: st.DrawFn) -> tuple[bool, list[Object]]:
    """Draw some states of one pod or of one Job."""
    is_pod = draw(st.booleans())
    return is_pod, [mutated(draw, copy.deepcopy(POD if is_pod else JOB)) for _ in range(draw(st.integers(1, 3)))]


@pytest.mark.timeout(300)
@share(0.15)
@given(foreign())
def test_no_pod_and_no_job_raises_out_of_an_event(told: tuple[bool, list[Object]]) -> None:
    is_pod, states = told

    async def see() -> None:
        queue: Queue[Key] = Queue(never)
        intake = Intake(queue, memories := JobMemories())
        for state in states:
            intake.saw(PODS if is_pod else JOBS, state)
            view: Any = PodView.of(state) if is_pod else JobView.of(state)
            assert view == type(view).of(state)
        memories.merged("job", (PodView.of(state) for state in states), Key("default", "clauses"))
        assert queue.depth <= len(states)

    asyncio.run(see())


async def never(key: Key) -> float | None:
    raise AssertionError(f"nothing works on {key} here")
