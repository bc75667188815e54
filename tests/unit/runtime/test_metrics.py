"""The operator's metrics of reconciles, jobs and attempts, and the page that names all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.clusters import SETTINGS, last_words, operated, run_of
from support.manifests import manifest
from support.scripted import ScriptedDriver

from finetune_operator.api.v1alpha1 import FineTuneJobStatus, LedgerEntry
from finetune_operator.constants import ConditionType, Phase
from finetune_operator.core.status.conditions import set_condition
from finetune_operator.core.times import from_text
from finetune_operator.local.cluster import LocalCluster
from finetune_operator.local.finetunejobs import admit
from finetune_operator.protocol import (
    FINETUNEJOBS,
    ApiError,
    ConflictError,
    NotFoundError,
    Object,
    Resource,
)
from finetune_operator.runtime.app import Options, operate
from finetune_operator.runtime.health import Health
from finetune_operator.runtime.intake import Intake
from finetune_operator.runtime.job_memory import JobMemories, Key
from finetune_operator.runtime.metrics import Metrics, ended_attempt, seconds_to_recovery, seconds_to_world_ready
from finetune_operator.runtime.queue import Queue
from finetune_operator.runtime.reconciler import Reconciler

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
KEY = Key("default", "clauses")
RESULTS = ("success", "error", "conflict")


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"there is no {name} {labels}"
    return found


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


# ---- the life of a job ----------------------------------------------------------------------------------------------


async def test_a_job_that_completes_is_a_successful_attempt_and_a_world_that_was_ready() -> None:
    metrics = Metrics()
    async with operated(options=Options(metrics=metrics)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.say(pod, run)
        await world.until(lambda s: s.phase == Phase.TRAINING)
        await until(lambda: value(metrics, "finetune_jobs", phase="Training") == 1)
        world.driver.finish(pod, 0, last_words(pod, run))
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        await until(lambda: value(metrics, "finetune_jobs", phase="Complete") == 1)
        await until(lambda: value(metrics, "finetune_workqueue_depth") == 0)
    assert value(metrics, "finetune_jobs", phase="Training") == 0
    assert value(metrics, "finetune_attempts_total", **{"class": "Success"}) == 1
    assert value(metrics, "finetune_world_ready_seconds_count") == 1
    assert value(metrics, "finetune_status_writes_total") >= 4
    reconciles = value(metrics, "finetune_reconcile_seconds_count")
    by_result = [value(metrics, "finetune_reconcile_total", result=result) for result in RESULTS]
    assert sum(by_result) == reconciles
    assert by_result[0] >= 4
    assert value(metrics, "finetune_workqueue_wait_seconds_count") >= reconciles


async def test_an_attempt_that_fails_counts_by_its_class() -> None:
    metrics = Metrics()
    async with operated(options=Options(metrics=metrics)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.run and s.run.job_uid))
        world.driver.finish(pod, 76, last_words(pod, run, 76, error="no column"))
        await world.until(lambda s: s.phase == Phase.FAILED)
        await until(lambda: value(metrics, "finetune_jobs", phase="Failed") == 1)
    assert value(metrics, "finetune_attempts_total", **{"class": "Invalid"}) == 1
    assert value(metrics, "finetune_attempts_total", **{"class": "Success"}) == 0


async def test_a_deleted_job_is_forgotten() -> None:
    options = Options()
    async with operated(options=options) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        await until(lambda: options.memories.seen == {KEY})
        await world.cluster.delete(FINETUNEJOBS, "default", "clauses")
        await until(lambda: not options.memories.keys)
    assert [value(options.metrics, "finetune_jobs", phase=phase) for phase in Phase] == [0] * len(Phase)


async def test_a_job_whose_deletion_nobody_saw_is_forgotten_when_everything_is_looked_at() -> None:
    async def sees_nothing(intake: Intake) -> None:
        await asyncio.Event().wait()

    options = Options(resync=0.01)
    options.memories.of(KEY).phase = Phase.COMPLETE
    cluster = LocalCluster(ScriptedDriver(), admit=admit)
    cluster.add_namespace("default")
    operator = asyncio.create_task(operate(cluster, SETTINGS, sees_nothing, options))
    await until(lambda: not options.memories.keys)
    operator.cancel()
    await asyncio.gather(operator, return_exceptions=True)
    await cluster.close()


# ---- reconciles -----------------------------------------------------------------------------------------------------


class Refusing(LocalCluster):
    """A cluster that answers the read of a job or the write of its status with an error, or hangs."""

    def __init__(self, reading: Exception | None = None, writing: Exception | None = None, hangs: bool = False) -> None:
        super().__init__(ScriptedDriver(), admit=admit)
        self.add_namespace("default")
        self._reading, self._writing, self._hangs = reading, writing, hangs

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        if self._hangs:
            await asyncio.Event().wait()
        if self._reading:
            raise self._reading
        return await super().get(resource, namespace, name)

    async def put_status(self, resource: Resource, manifest: Object) -> Object:
        if self._writing:
            raise self._writing
        return await super().put_status(resource, manifest)


@pytest.mark.parametrize(
    ("refusal", "result"),
    [
        ({}, "success"),
        ({"reading": NotFoundError(404, "NotFound", "it went")}, "success"),
        ({"writing": ConflictError(409, "Conflict", "somebody was faster")}, "conflict"),
        ({"reading": ApiError(0, "Unreachable", "no route")}, "error"),
    ],
)
async def test_a_reconcile_counts_by_how_it_ends(refusal: dict[str, Any], result: str) -> None:
    cluster = Refusing(**refusal)
    await cluster.create(FINETUNEJOBS, manifest())
    reconciler = Reconciler(cluster, SETTINGS, JobMemories())
    if result == "error":
        with pytest.raises(ApiError):
            await reconciler.reconcile(KEY)
    else:
        await reconciler.reconcile(KEY)
    await cluster.close()
    counted = {r: value(reconciler.metrics, "finetune_reconcile_total", result=r) for r in RESULTS}
    assert counted == {r: float(r == result) for r in RESULTS}
    assert value(reconciler.metrics, "finetune_status_writes_total") == (not refusal)


async def test_a_reconcile_that_is_cancelled_does_not_count() -> None:
    cluster = Refusing(hangs=True)
    reconciler = Reconciler(cluster, SETTINGS, JobMemories())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reconciler.reconcile(KEY), 0.01)
    await cluster.close()
    assert value(reconciler.metrics, "finetune_reconcile_seconds_count") == 0


async def test_what_waits_and_what_hangs_is_seen_from_outside() -> None:
    async def sees_many(intake: Intake) -> None:
        for number in range(100):
            intake.saw(
                FINETUNEJOBS, {"metadata": {"namespace": "default", "name": f"job-{number}", "uid": f"{number}"}}
            )
        await asyncio.Event().wait()

    metrics, health = Metrics(), Health()
    cluster = Refusing(hangs=True)
    operator = asyncio.create_task(operate(cluster, SETTINGS, sees_many, Options(metrics=metrics, health=health)))
    await until(lambda: health.longest() is not None)
    hangs = health.longest()
    assert hangs is not None
    assert str(hangs[0]) == "default/job-0"
    begun = value(metrics, "finetune_workqueue_wait_seconds_count")
    assert 0 < begun < 100
    assert value(metrics, "finetune_workqueue_depth") == 100 - begun
    operator.cancel()
    await asyncio.gather(operator, return_exceptions=True)
    await cluster.close()


async def test_a_key_waits_from_when_it_was_first_added() -> None:
    waits: list[float] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        done.set()

    queue = Queue(work, waited=waits.append)
    loop = asyncio.get_running_loop()
    added = loop.time()
    queue.add("a")
    while loop.time() < added + 0.01:
        await asyncio.sleep(0.001)
    queue.add("a")
    running = asyncio.create_task(queue.run())
    await asyncio.wait_for(done.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(waits) == 1
    assert waits[0] >= 0.01


# ---- from status to status ------------------------------------------------------------------------------------------


def status(
    attempt: int = 1, ended: bool = False, ledger: tuple[int, ...] = (), ready: str | None = None
) -> FineTuneJobStatus:
    """Return a status of run 1.

    `ledger` has the numbers of its attempts (negative: a success); `ready` is the time of WorldReady.
    """
    run = {
        "number": 1,
        "attempt": attempt,
        "nonce": "n",
        "generation": 1,
        "recipe": "r",
        "start_time": "2026-01-01T00:00:00Z",
        "completion_time": "2026-01-01T01:00:00Z" if ended else None,
        "nodes": 1,
        "world": 1,
        "zero_stage": 0,
    }
    entries = [
        LedgerEntry(
            run=1, attempt=abs(n), class_="Hung" if n > 0 else "Success", message="", start_time="s", end_time="e"
        )
        for n in ledger
    ]
    made = FineTuneJobStatus.model_validate({"run": run, "ledger": entries})
    if ready:
        made.conditions = set_condition([], ConditionType.WORLD_READY, "True", "R", "", 1, from_text(ready))
    return made


@pytest.mark.parametrize(
    ("old", "new", "ended"),
    [
        (FineTuneJobStatus(), status(), None),
        (status(), status(), None),
        (status(), status(ended=True, ledger=(-1,)), "Success"),
        (status(ended=True, ledger=(-1,)), status(ended=True, ledger=(-1,)), None),
        (status(), status(ended=True, ledger=(1,)), "Hung"),
        (status(ended=True, ledger=(1,)), status(ended=True, ledger=(1,)), None),
        (status(), status(attempt=2, ledger=(1,)), "Hung"),
        (status(attempt=4, ledger=(1, 2, 3)), status(attempt=5, ledger=(2, 3, 4)), "Hung"),
        (status(attempt=2, ledger=(1,)), status(attempt=2, ended=True, ledger=(1, -2)), "Success"),
    ],
    ids=[
        "a run starts",
        "nothing happens",
        "it succeeds",
        "it has succeeded before",
        "it fails",
        "it has failed before",
        "it fails and the next attempt starts",
        "it fails and the ledger is full",
        "the second attempt succeeds",
    ],
)
def test_an_attempt_ends_once(old: FineTuneJobStatus, new: FineTuneJobStatus, ended: str | None) -> None:
    assert ended_attempt(old, new) == ended


def test_a_world_becomes_ready_once_and_its_time_counts_from_the_run_s_start() -> None:
    ready = status(ready="2026-01-01T00:01:30Z")
    assert seconds_to_world_ready(status(), status()) is None
    assert seconds_to_world_ready(status(), ready) == 90
    assert seconds_to_world_ready(ready, ready) is None
    assert seconds_to_world_ready(status(), status(ready="2025-12-31T23:59:59Z")) == 0, "the clock was set back"


def lost(seconds: str, *ledger: str) -> FineTuneJobStatus:
    """Return a status of run 1 whose world was lost at that time of the first hour.

    `ledger` has the classes of the attempts that had ended by then.
    """
    made = status(attempt=2)
    made.conditions = set_condition(
        [], ConditionType.WORLD_READY, "False", "R", "", 1, from_text(f"2026-01-01T{seconds}Z")
    )
    made.ledger = [
        LedgerEntry(
            run=1,
            attempt=n,
            class_=name,
            message="",
            start_time="2026-01-01T00:00:00Z",
            end_time="2026-01-01T00:10:00Z",
        )
        for n, name in enumerate(ledger, 1)
    ]
    return made


def ready_after(before: FineTuneJobStatus, time: str) -> FineTuneJobStatus:
    conditions = set_condition(before.conditions, ConditionType.WORLD_READY, "True", "R", "", 1, from_text(time))
    return before.model_copy(update={"conditions": conditions})


def test_a_recovery_counts_from_the_loss_of_the_world_to_the_world_of_a_later_attempt() -> None:
    """The times come from the status: one operator may write the loss and another one the recovery."""
    before = lost("00:10:00", "Infrastructure")
    after = ready_after(before, "2026-01-01T00:11:30Z")
    assert seconds_to_recovery(before, after) == 90
    assert seconds_to_world_ready(before, after) is None, "the world was ready before in this run"
    assert seconds_to_recovery(after, after) is None
    assert seconds_to_recovery(before, before) is None


def test_several_failures_before_the_world_is_back_are_one_recovery() -> None:
    before = lost("00:10:00", "Preempted", "StartupTimeout")
    assert seconds_to_recovery(before, ready_after(before, "2026-01-01T00:20:00Z")) == 600


def test_a_world_that_is_first_ready_in_a_later_attempt_is_a_start_and_no_recovery() -> None:
    before = lost("00:00:00", "StartupTimeout")
    after = ready_after(before, "2026-01-01T00:20:00Z")
    assert seconds_to_recovery(before, after) is None
    assert seconds_to_world_ready(before, after) == 1200


def test_the_world_of_a_new_run_is_no_recovery_of_the_one_before() -> None:
    before = lost("00:10:00", "Success")
    assert before.run is not None
    later = before.run.model_copy(update={"number": 2, "attempt": 1, "start_time": "2026-01-01T00:30:00Z"})
    before = before.model_copy(update={"run": later})
    after = ready_after(before, "2026-01-01T00:31:00Z")
    assert seconds_to_recovery(before, after) is None
    assert seconds_to_world_ready(before, after) == 60


def test_a_suspended_job_is_no_recovery() -> None:
    before = lost("00:10:00", "Suspended")
    after = ready_after(before, "2026-01-03T00:00:00Z")
    assert seconds_to_recovery(before, after) is None
    assert seconds_to_world_ready(before, after) is None


async def test_a_job_that_recovers_is_counted_once() -> None:
    metrics = Metrics()
    async with operated(options=Options(metrics=metrics)) as world:
        await world.cluster.create(FINETUNEJOBS, manifest())
        (pod,) = await world.pods(1)
        run = run_of(await world.until(lambda s: s.phase == Phase.STARTING))
        world.say(pod, run)
        ready = await world.until(lambda s: s.phase == Phase.TRAINING)
        since = next(c.last_transition_time for c in ready.conditions if c.type == ConditionType.WORLD_READY)
        await until(
            lambda: datetime.now(UTC) >= from_text(since) + timedelta(seconds=1)
        )  # status times are whole seconds
        world.driver.finish(pod, 1, last_words(pod, run, 1, error="a link broke"))
        run = run_of(await world.until(lambda s: s.run and s.run.attempt == 2 and s.phase == Phase.STARTING))
        (pod,) = [p for p in await world.pods(1) if p["metadata"]["uid"] != pod["metadata"]["uid"]]
        world.say(pod, run)
        await world.until(lambda s: s.phase == Phase.TRAINING)
    assert value(metrics, "finetune_world_ready_seconds_count") == 1
    assert value(metrics, "finetune_recovery_seconds_count") == 1
    assert value(metrics, "finetune_recovery_seconds_sum") < 10


async def test_an_operator_without_a_lease_leads() -> None:
    metrics = Metrics()
    assert value(metrics, "finetune_leader") == 0
    async with operated(options=Options(metrics=metrics)):
        await until(lambda: value(metrics, "finetune_leader") == 1)


# ---- the page -------------------------------------------------------------------------------------------------------


def test_two_operators_in_one_process_have_metrics_of_their_own() -> None:
    one, other = Metrics(), Metrics()
    one.measure_phases(lambda phase: int(phase == Phase.TRAINING))
    assert value(one, "finetune_jobs", phase="Training") == 1
    assert value(other, "finetune_jobs", phase="Training") == 0


def test_no_metric_is_labelled_by_job() -> None:
    metrics, memories = Metrics(), JobMemories()
    metrics.measure_phases(memories.in_phase)
    before = sum(len(family.samples) for family in metrics.registry.collect())
    for number in range(50):
        memories.of(Key("default", f"job-{number}")).phase = Phase.TRAINING
        metrics.wrote(status(), status(ended=True))
    assert sum(len(family.samples) for family in metrics.registry.collect()) == before
    assert value(metrics, "finetune_jobs", phase="Training") == 50


def test_the_page_names_every_metric_with_its_type_and_labels() -> None:
    exposed = {}
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exposed[name] = (family.type, frozenset(labels))
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.M)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    # The available metrics of a process depend on the platform.
    missing = {name for name in documented.keys() - exposed.keys() if not name.startswith("process_")}
    assert missing == set()
    assert {name: documented.get(name) for name in exposed} == exposed


def test_the_page_names_every_value_of_a_label() -> None:
    page = PAGE.read_text()
    for family in Metrics().registry.collect():
        if family.name.startswith("finetune_"):
            for sample in family.samples:
                for label, label_value in sample.labels.items():
                    assert label == "le" or f"`{label_value}`" in page, f"{family.name} {label} {label_value}"
