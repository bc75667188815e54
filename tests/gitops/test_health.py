"""kstatus, Argo CD and Flux say of every recorded job what its user expects, and none calls it healthy too early."""

from __future__ import annotations

import asyncio

import pytest
import yaml
from gitops.scenes import SCENES
from gitops.verdicts import DONE, GOING, VERDICTS, WORKING, Verdict, verdict_of
from support.clusters import World, last_words, operated, run_of
from support.health import DOCUMENTS, FLUX_HEALTH, HEALTH_LUA, CelError, argo, by_expressions, flux, kstatus
from support.manifests import ABSENT, changed, manifest
from support.recordings import recorded

from finetune_operator import constants
from finetune_operator.constants import Phase, Reason
from finetune_operator.protocol import FINETUNEJOBS, Object
from finetune_trainer.contract import Phase as RankPhase

REMEDY = "add a scene to tests/gitops/scenes.py, its verdict to tests/gitops/verdicts.py, and run: make record"
MEMORY, CLUSTER = recorded("memory"), recorded("cluster")
OBJECTS = [*MEMORY.values(), *CLUSTER.values()]
EVERY = pytest.mark.parametrize(
    ("name", "obj"),
    [
        pytest.param(name, obj, id=f"{source}-{name}")
        for source, objects in (("memory", MEMORY), ("cluster", CLUSTER))
        for name, obj in objects.items()
    ],
)


def told(obj: Object) -> list[tuple[str, str, str]]:
    """Of each condition what decides about health."""
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
def test_just_one_of_ready_reconciling_and_stalled_is_true(name: str, obj: Object) -> None:
    true = [kind for kind, status, _ in told(obj) if kind in ("Ready", "Reconciling", "Stalled") and status == "True"]
    assert len(true) == (1 if told(obj) else 0)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_recorded(phase: Phase) -> None:
    assert phase in {obj["status"].get("phase") for obj in OBJECTS}, REMEDY


@pytest.mark.parametrize("reason", [value for value in vars(constants).values() if isinstance(value, Reason)])
def test_every_reason_is_recorded(reason: Reason) -> None:
    assert reason.name in {name for obj in OBJECTS for _, _, name in told(obj)}, REMEDY


@pytest.mark.parametrize("name", SCENES)
async def test_a_recording_is_what_the_operator_says_today(name: str) -> None:
    now, then = await SCENES[name](), MEMORY.get(name, {"status": {}})
    assert told(now) == told(then), REMEDY
    for field in ("phase", "observedGeneration"):
        assert now["status"].get(field) == then["status"].get(field), REMEDY


async def test_a_life_turns_healthy_twice_when_it_trains_twice() -> None:
    """By every status that is ever written, not only by those that a scene waits for."""
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
        await world.cluster.replace(FINETUNEJOBS, job)
        await train(world, run_number=2)
        await world.cluster.delete(FINETUNEJOBS, "default", "clauses")
        await asyncio.wait_for(watching, 10)
    turns = [verdict for before, verdict in zip([None, *seen], seen, strict=False) if verdict != before]
    assert turns == [WORKING, DONE, WORKING, DONE]


async def train(world: World, run_number: int) -> None:
    """From the start of a run to its end, through all phases."""
    started = await world.until(lambda s: s.run and s.run.number == run_number and s.phase == Phase.STARTING)
    run = run_of(started)
    (pod,) = [p for p in await world.pods(run_number) if p["metadata"]["labels"]["finetune.dev/run"] == str(run_number)]
    world.say(pod, run, step=3)
    await world.until(lambda s: s.phase == Phase.TRAINING)
    world.say(pod, run, phase=RankPhase.EXPORT, step=30)
    await world.until(lambda s: s.phase == Phase.EXPORTING)
    world.driver.finish(pod, 0, last_words(pod, run))
    await world.until(lambda s: s.phase == Phase.COMPLETE)


def test_a_suspended_job_is_suspended_for_argo_and_in_progress_for_the_others() -> None:
    """They have no word for it."""
    pending = MEMORY["pending"]
    conditions = [{**condition, "status": "False"} for condition in pending["status"]["conditions"]]
    suspended = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": "spec.suspend is true"}
    job = changed(pending, {"status.conditions": [*conditions, suspended]})
    assert verdict_of(job) == Verdict("InProgress", "Suspended", "InProgress")
    assert argo(job).message == "spec.suspend is true"


def test_a_job_without_any_status_is_healthy_for_kstatus_alone() -> None:
    """Which is why the schema has a default for the status."""
    job = changed(MEMORY["created"], {"status": ABSENT})
    assert kstatus(job) == "Current"
    assert argo(job).status == "Progressing"
    with pytest.raises(CelError):
        flux(job)
    assert MEMORY["created"]["status"] == {"observedGeneration": -1}
    assert CLUSTER["created"]["status"] == {"observedGeneration": -1}


def test_the_config_map_of_argo_has_the_script() -> None:
    patch = yaml.safe_load((DOCUMENTS / "argocd-cm.yaml").read_text())
    key = f"resource.customizations.health.{constants.GROUP}_{constants.KIND}"
    assert patch["data"] == {key: HEALTH_LUA.read_text()}
