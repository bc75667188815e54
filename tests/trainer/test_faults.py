"""Whole pods, agent included, under the twelve faults of the scoreboard, and stopped in every phase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_scoreboard import workload
from fault_scoreboard.faults import FAULTS, WORLD, Fault
from fault_scoreboard.ours import Ours
from fault_scoreboard.pods import Pod, gang_end
from fault_scoreboard.run import run_fault
from fault_scoreboard.side import GRACE_SECONDS, Attempt, Job

from finetune_trainer import contract
from finetune_trainer.contract import ExitCode, Phase, RankStatus

QUICK = ("rank-killed", "one-terminated")
SECONDS = 120
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all jobs; the undisturbed training is added when a test first needs it."""
    return tmp_path_factory.mktemp("faults")


def row(fault: Fault) -> object:
    marks = [] if fault.name in QUICK else [pytest.mark.slow]
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.mark.parametrize("fault", [row(fault) for fault in FAULTS])
def test_a_fault_ends_in_the_right_model_or_for_the_right_reason(fault: Fault, folder: Path) -> None:
    outcome = run_fault(fault, Ours(), folder)
    assert outcome.right, outcome


@contextlib.contextmanager
def launched(job: Job, attempt: Attempt) -> Iterator[list[Pod]]:
    """Start the pods of an attempt, and kill them at the end."""
    pods = [Pod(Ours().command(job, attempt, index), job.log(attempt.number, index)) for index in range(WORLD)]
    try:
        yield pods
    finally:
        for pod in pods:
            pod.kill()


def ended(pods: list[Pod], seconds: float = SECONDS) -> list[int]:
    deadline = time.monotonic() + seconds
    while (codes := gang_end(pods)) is None:
        assert time.monotonic() < deadline, [pod.exit_code for pod in pods]
        time.sleep(0.02)
    return codes


def wait_for(phase: Phase, job: Job, pods: list[Pod]) -> None:
    """Wait until the last rank reports that phase."""
    told = job.folder / f"attempt-1/pod-{WORLD - 1}/scratch" / contract.rank_status_file(WORLD - 1)
    deadline = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(OSError, ValueError):
            if RankStatus.model_validate_json(told.read_bytes()).phase is phase:
                return
        assert all(pod.exit_code is None for pod in pods), f"no rank was ever seen in phase {phase}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.LOAD, Phase.EVAL, Phase.TRAIN, Phase.SAVE, Phase.EXPORT, Phase.CHECK])
def test_a_pod_that_is_asked_to_stop_in_any_phase_takes_all_along_and_the_next_attempt_ends_with_the_same_model(
    phase: Phase, folder: Path
) -> None:
    whole = Job(folder / "whole", None)
    job = Job(folder / phase, None)
    for one in (whole, job):
        if not one.steps.exists():
            one.steps.mkdir(parents=True)
            one.workspace.mkdir()
            workload.make(one.data, is_spoilt=False)
    if not (whole.folder / "attempt-1").exists():
        with launched(whole, Attempt(1)) as pods:
            assert ended(pods) == [0, 0]
    with launched(job, Attempt(1)) as pods:
        wait_for(phase, job, pods)
        began = time.monotonic()
        pods[-1].terminate()
        codes = ended(pods, GRACE_SECONDS + 5)
        assert time.monotonic() - began < GRACE_SECONDS
    assert set(codes) <= {ExitCode.PREEMPTED, *([0] if phase in (Phase.EXPORT, Phase.CHECK) else [])}
    if set(codes) != {0}:
        with launched(job, Attempt(2)) as pods:
            assert ended(pods) == [0, 0]
    models = [workload.measured(*Ours().result(one), workload.evaluation_of(one.data)) for one in (whole, job)]
    assert models[0] is not None
    assert models[0] == models[1]
