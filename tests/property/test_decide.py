"""Tests that decisions settle: from any observable state, further decisions soon change nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from support.clusters import NOW, RESULT
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobStatus, RunStatus
from finetune_operator.constants import Phase
from finetune_operator.core.decide import decide
from finetune_operator.core.observed.children import MissingChild
from finetune_operator.core.observed.claims import ClaimView
from finetune_operator.core.observed.views import JobView, Observed, PodView
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_trainer.contract import Phase as RankPhase
from finetune_trainer.contract import PodStatus, Progress, RankStatus, TerminationMessage

SETTINGS = Settings(image="i")
ROUNDS = 4
TIMES = st.none() | st.integers(-20, 20).map(lambda s: NOW + timedelta(seconds=s))
CLAIMS = (
    ClaimView(("ReadWriteMany",)),
    ClaimView(("ReadWriteOnce",)),
    ClaimView(("ReadWriteMany",), lost=True),
    ClaimView(("ReadWriteMany",), deleted=True),
)
KINDS = ("ConfigMap", "Service", "NetworkPolicy")
EXIT_CODES = st.sampled_from([None, 0, 1, 75, 76, 78, 80, 137, 143])


@st.composite
def jobs(draw: st.DrawFn) -> FineTuneJob:
    nodes = draw(st.integers(1, 3))
    generation = draw(st.integers(1, 3))
    job = parse(
        manifest(
            **{
                "metadata.uid": "0b5e7d2a",
                "metadata.generation": generation,
                "spec.resources": {"nodes": nodes, "gpusPerNode": 0},
            }
        )
    )
    if draw(st.booleans()):
        return job
    run = next_run(job, draw(st.integers(1, 3)), SETTINGS, "nonce", NOW)
    changes = {
        "job_uid": draw(st.sampled_from([None, "job"])),
        "completion_time": draw(st.sampled_from([None, "2026-01-01T00:00:00Z"])),
        "generation": draw(st.integers(1, generation)),
    }
    phase = draw(st.sampled_from([None, *Phase]))
    status = FineTuneJobStatus(run=run.model_copy(update=changes), phase=phase, observed_generation=generation)
    return job.model_copy(update={"status": status})


@st.composite
def pods(draw: st.DrawFn, run: RunStatus, index: int) -> PodView:
    exit_code = draw(EXIT_CODES)
    message = None
    if exit_code is not None and draw(st.booleans()):
        message = TerminationMessage(
            pod_uid=f"u{index}",
            index=index,
            attempt=run.attempt,
            nonce=draw(st.sampled_from([run.nonce, "other"])),
            exit_code=exit_code,
            world=draw(st.sampled_from([run.world, 1])),
            config_digest=run.config_digest,
            error=draw(st.none() | st.just("it broke")),
            error_time=draw(st.none() | st.just(NOW.timestamp())),
            result=RESULT if exit_code == 0 and index == 0 and draw(st.booleans()) else None,
        )
    return PodView(
        uid=f"u{index}",
        name=f"pod-{index}",
        index=index,
        owner_uid="job",
        scheduled=draw(st.booleans()),
        running=exit_code is None and draw(st.booleans()),
        waiting=draw(st.none() | st.just("no room")),
        exit_code=exit_code,
        message=message,
        ended=draw(TIMES) if exit_code is not None else None,
        deleted=draw(TIMES),
        disrupted=draw(st.none() | st.just("Evicted")),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    job = draw(jobs())
    claims = draw(st.sampled_from([None, {}, *({"finetune": claim} for claim in CLAIMS)]))
    observed = Observed(job, NOW, "fresh", claims=claims)
    run = job.status.run
    if run is None or draw(st.booleans()):
        return observed
    child = JobView(
        uid="job",
        owner_uid=draw(st.sampled_from(["0b5e7d2a", "0b5e7d2a", "stranger"])),
        created=NOW - timedelta(minutes=1),
        failure=draw(TIMES),
        failure_message="BackoffLimitExceeded",
        succeeded=draw(st.frozensets(st.integers(0, run.nodes - 1))),
        parallelism=run.nodes,
        deleted=draw(st.booleans()),
    )
    missing = tuple(MissingChild(k, "c", draw(st.booleans())) for k in KINDS if draw(st.booleans()))
    seen = tuple(draw(pods(run, index)) for index in range(run.nodes) if draw(st.booleans()))
    answers = {pod.uid: answer_of(run, pod, draw(st.sampled_from(RankPhase))) for pod in seen if pod.running}
    return replace(observed, child=child, pods=seen, answers=answers, missing=missing)


def answer_of(run: RunStatus, pod: PodView, phase: RankPhase) -> PodStatus:
    index = pod.index or 0
    rank = RankStatus(
        rank=index, world=run.world, config_digest=run.config_digest or "", backend="gloo", zero_stage=2,
        phase=phase, step=3, heartbeat=NOW.timestamp(),
    )  # fmt: skip
    progress = Progress(step=3, total_steps=9, epoch=0.3) if index == 0 else None
    return PodStatus(
        pod_uid=pod.uid, attempt=run.attempt, nonce=run.nonce, index=index, ranks=(rank,), progress=progress
    )


def after(observed: Observed, status: FineTuneJobStatus) -> Observed:
    """Return the next observation if only the status has changed; a new run has no children yet."""
    job = observed.job.model_copy(update={"status": status})
    before = observed.job.status.run
    same = before and status.run and (before.number, before.nonce) == (status.run.number, status.run.nonce)
    if same:
        return replace(observed, job=job, missing=())
    return replace(observed, job=job, child=None, pods=(), answers={})


@settings(max_examples=400, deadline=None)
@given(observations())
def test_deciding_settles_and_then_changes_nothing(observed: Observed) -> None:
    for _ in range(ROUNDS):
        decision = decide(observed, SETTINGS)
        if decision.status is None or decision.status == observed.job.status:
            break
        assert not decision.create_children or attempt_of(decision.status) > attempt_of(observed.job.status), (
            "whoever makes children at once has told of a new attempt"
        )
        observed = after(observed, decision.status)
    else:
        raise AssertionError(f"{ROUNDS} decisions were not enough: {observed.job.status}")


def attempt_of(status: FineTuneJobStatus) -> tuple[int, int]:
    return (status.run.number, status.run.attempt) if status.run else (0, 0)


@settings(max_examples=400, deadline=None)
@given(observations())
def test_the_ledger_only_grows_and_a_success_has_a_result(observed: Observed) -> None:
    before = observed.job.status
    decision = decide(observed, SETTINGS)
    if decision.status is None:
        return
    assert decision.status.ledger[: len(before.ledger)] == before.ledger
    if decision.status.phase == Phase.COMPLETE and before.phase != Phase.COMPLETE:
        assert decision.status.result is not None
        assert observed.child is not None
        assert observed.child.succeeded == frozenset(range(decision.status.run.nodes if decision.status.run else 0))
    true = {c.type for c in decision.status.conditions if c.status == "True"}
    assert len(true & {"Ready", "Reconciling", "Stalled"}) <= 1
    if "Ready" in true and decision.status.run:
        assert decision.status.observed_generation == decision.status.run.generation
