"""Tests that kstatus, Argo CD and Flux report the expected health of every recorded job, and never too early."""

from __future__ import annotations

import asyncio
import re

import pytest
import yaml
from gitops.scenes import SCENES
from gitops.verdicts import DONE, GOING, STUCK, VERDICTS, WORKING, Verdict, verdict_of
from support.clusters import NOW, World, last_words, operated, run_of
from support.health import DOCUMENTS, FLUX_HEALTH, HEALTH_LUA, CelError, argo, by_expressions, flux, kstatus
from support.manifests import ABSENT, changed, manifest
from support.recordings import recorded

from finetune_operator import constants
from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import LedgerEntry
from finetune_operator.constants import Phase, Reason
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.status.written import as_failed
from finetune_operator.protocol import CONFIGMAPS, FINETUNEJOBS, JOBS, PODS, SERVICES, Object
from finetune_trainer.contract import FailureClass
from finetune_trainer.contract import Phase as RankPhase

REMEDY = "add a scene to tests/gitops/scenes.py, its verdict to tests/gitops/verdicts.py, and run: make record"
MEMORY, CLUSTER = recorded("memory"), recorded("cluster")
OBJECTS = [*MEMORY.values(), *CLUSTER.values()]
OF_EVENTS_ALONE = (constants.RESUMED, constants.MADE_AGAIN, constants.NOT_MADE_AGAIN)
REASONS = [value for value in vars(constants).values() if isinstance(value, Reason) and value not in OF_EVENTS_ALONE]
EVERY = pytest.mark.parametrize(
    ("name", "obj"),
    [
        pytest.param(name, obj, id=f"{source}-{name}")
        for source, objects in (("memory", MEMORY), ("cluster", CLUSTER))
        for name, obj in objects.items()
    ],
)


def told(obj: Object) -> list[tuple[str, str, str]]:
    """Return the type, status and reason of each condition."""
    return [(c["type"], c["status"], c["reason"]) for c in obj["status"].get("conditions", [])]


@EVERY
def test_a_recorded_job_has_the_health_that_its_user_expects(name: str, obj: Object) -> None:
    assert verdict_of(obj) == VERDICTS[name]


@EVERY
def test_what_is_not_observed_is_never_healthy(name: str, obj: Object) -> None:
    later = changed(obj, {"metadata.generation": obj["metadata"]["generation"] + 1})
    assert verdict_of(later) in (WORKING, GOING)
    (check,) = yaml.safe_load(FLUX_HEALTH.read_text())
    assert by_expressions(check, later) == "InProgress", "the expressions must not rely on Flux's own look at it"


@EVERY
def test_a_job_that_is_being_deleted_is_never_healthy(name: str, obj: Object) -> None:
    assert verdict_of(changed(obj, {"metadata.deletionTimestamp": "2026-01-01T00:00:00Z"})) == GOING


@EVERY
def test_argo_shows_the_sentence_of_the_status(name: str, obj: Object) -> None:
    ready = next((c["message"] for c in obj["status"].get("conditions", []) if c["type"] == "Ready"), None)
    generation, message = obj["metadata"]["generation"], argo(obj).message
    if "deletionTimestamp" in obj["metadata"]:
        assert message == "Pending deletion"
    elif obj["status"]["observedGeneration"] == generation:
        assert message == ready
    else:
        before = f". Of the one before: {ready}" if ready else ""
        assert message == f"The operator has not acted on generation {generation} yet{before}"


@EVERY
def test_just_one_of_ready_reconciling_stalled_and_suspended_is_true(name: str, obj: Object) -> None:
    kinds = ("Ready", "Reconciling", "Stalled", "Suspended")
    true = [kind for kind, status, _ in told(obj) if kind in kinds and status == "True"]
    assert len(true) == (1 if told(obj) else 0)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_recorded(phase: Phase) -> None:
    assert phase in {obj["status"].get("phase") for obj in OBJECTS}, REMEDY


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_every_reason_of_a_condition_is_recorded(reason: Reason) -> None:
    assert reason.name in {name for obj in OBJECTS for _, _, name in told(obj)}, REMEDY


@pytest.mark.parametrize("name", SCENES)
async def test_a_recording_is_what_the_operator_says_today(name: str) -> None:
    now, then = await SCENES[name](), MEMORY.get(name, {"status": {}})
    assert told(now) == told(then), REMEDY
    for field in ("phase", "observedGeneration"):
        assert now["status"].get(field) == then["status"].get(field), REMEDY


async def test_a_life_turns_healthy_twice_when_it_trains_twice() -> None:
    """The test checks every status that is written, not only those that a scene waits for."""
    seen: list[Verdict] = []

    async def watch(world: World) -> None:
        async for event in world.cluster.watch(FINETUNEJOBS, "default"):
            seen.append(verdict_of(event.object))
            if event.type == "DELETED":
                return

    async with operated() as world:
        watching = asyncio.create_task(watch(world))
        await world.cluster.create(FINETUNEJOBS, manifest())
        await train(world, run_number=1)
        job = await world.job()
        job["spec"]["training"]["epochs"] = 2
        await world.cluster.put(FINETUNEJOBS, job)
        await train(world, run_number=2)
        await world.cluster.delete(FINETUNEJOBS, "default", "clauses")
        await asyncio.wait_for(watching, 10)
    turns = [verdict for before, verdict in zip([None, *seen], seen, strict=False) if verdict != before]
    assert turns == [WORKING, DONE, WORKING, DONE]


async def train(world: World, run_number: int) -> None:
    """Move a run from its start to its end, through all phases."""
    started = await world.until(lambda s: s.run and s.run.number == run_number and s.phase == Phase.STARTING)
    run = run_of(started)
    (pod,) = await world.pods_of_attempt(1, 1)
    world.say(pod, run, step=3)
    await world.until(lambda s: s.phase == Phase.TRAINING)
    world.say(pod, run, phase=RankPhase.EXPORT, step=30)
    await world.until(lambda s: s.phase == Phase.EXPORTING)
    world.driver.finish(pod, 0, last_words(pod, run))
    await world.until(lambda s: s.phase == Phase.COMPLETE)


@pytest.mark.parametrize("name", ["suspended", "suspended-from-the-beginning"])
def test_a_suspended_job_is_suspended_for_argo_and_in_progress_for_the_others(name: str) -> None:
    """Flux and kstatus have no such state: Ready, Reconciling and Stalled are all False."""
    job = MEMORY[name]
    assert {(kind, status) for kind, status, _ in told(job)} >= {
        ("Ready", "False"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
    }
    assert verdict_of(job) == Verdict("InProgress", "Suspended", "InProgress")
    assert argo(job).message.startswith("spec.suspend is true")


@pytest.mark.parametrize("failure", FailureClass)
def test_a_run_that_failed_is_degraded_whatever_the_class(failure: FailureClass) -> None:
    job = parse(MEMORY["training"])
    entry = LedgerEntry(run=1, attempt=1, class_=failure, message="why", start_time="", end_time="")
    status = as_failed(Observed(job, NOW, "nonce"), job.status, entry)
    failed = changed(MEMORY["training"], {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)})
    assert verdict_of(failed) == STUCK
    assert argo(failed).message == f"Run 1 failed: {failure}: why"


async def test_an_engine_that_heals_a_job_whose_children_are_gone_trains_nothing() -> None:
    """Children that were deleted after the end, by the ttl or by hand, are no drift of the job."""
    async with operated() as world:
        applied = manifest(**{"spec.ttlSecondsAfterFinished": 0})
        await world.cluster.create(FINETUNEJOBS, applied)
        await world.succeed(await world.pods_of_attempt(1, 1))
        await world.until(lambda s: s.phase == Phase.COMPLETE)
        async with asyncio.timeout(10):
            while any([await world.cluster.list(kind, "default") for kind in (JOBS, SERVICES, CONFIGMAPS, PODS)]):
                await asyncio.sleep(0.005)
        healed = await world.edit(**{"spec": applied["spec"], "metadata.annotations": {"healed": "yes"}})
        assert healed["metadata"]["generation"] == 1
        await world.edit(**{"spec.ttlSecondsAfterFinished": 60})
        after = await world.until(lambda s: s.observed_generation == 2)
        assert run_of(after).number == 1
        assert await world.cluster.list(JOBS, "default") == []
        assert verdict_of(await world.job()) == DONE


def test_a_job_without_any_status_is_healthy_for_kstatus_alone() -> None:
    """The schema therefore has a default for the status."""
    job = changed(MEMORY["created"], {"status": ABSENT})
    assert kstatus(job) == "Current"
    assert argo(job).status == "Progressing"
    with pytest.raises(CelError):
        flux(job)
    for created in (MEMORY["created"]["status"], CLUSTER["created"]["status"]):
        assert created["observedGeneration"] == -1
        assert "conditions" not in created


@pytest.mark.parametrize("name", MEMORY)
def test_the_documented_health_is_the_one_that_is_said(name: str) -> None:
    obj = MEMORY[name]
    table = (DOCUMENTS / "README.md").read_text().partition("| the job |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    stalled = next((reason for kind, status, reason in told(obj) if (kind, status) == ("Stalled", "True")), None)
    word = stalled or obj["status"].get("phase", "not seen yet")
    if obj["status"]["observedGeneration"] not in (-1, obj["metadata"]["generation"]):
        word = "edited"
    (row,) = [health for job, *health in rows if re.search(rf"\b{word}\b", job)]
    said = verdict_of(obj)
    assert row == [said.argo, said.flux, said.kstatus]


def test_the_config_map_of_argo_has_the_script() -> None:
    patch = yaml.safe_load((DOCUMENTS / "argocd-cm.yaml").read_text())
    key = f"resource.customizations.health.{constants.GROUP}_{constants.KIND}"
    assert patch["data"] == {key: HEALTH_LUA.read_text()}
