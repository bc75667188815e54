"""Runs one job of one side with one fault, from the first process to the verdict."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fault_scoreboard import workload
from fault_scoreboard.faults import (
    FAULT_STEP,
    FULL_SECONDS,
    INSIDE,
    LATE_SECONDS,
    MEMORY_LIMIT_ROWS,
    WORLD,
    Act,
    Fault,
)
from fault_scoreboard.injector import Injector
from fault_scoreboard.outcome import Ending, Equality, Model, Outcome, compare, judge
from fault_scoreboard.pods import Pod, gang_end
from fault_scoreboard.side import MAX_RESTARTS, Attempt, Command, Job, Side
from fault_scoreboard.steps import read_steps, steps_lost, training_again

HOOK = Path(__file__).parents[1] / "rank_hook"
STILL_SECONDS = 100.0
"""Seconds without a step or the end of a pod after which the job counts as hung."""
POLL_SECONDS = 0.02
MAX_WORDS = 600


@dataclass
class Course:
    """The course of a job: its end, its attempts, and how each of them failed."""

    ending: Ending = Ending.FINISHED
    attempts: list[Attempt] = field(default_factory=list)
    exit_codes: list[list[int]] = field(default_factory=list)
    last_words: list[str] = field(default_factory=list)


def run_fault(fault: Fault, side: Side, folder: Path) -> Outcome:
    """Train with the fault, and compare with the undisturbed run of the side.

    The run's folder `folder / <side> / <fault>` is made anew. The undisturbed run is made once for each `folder`.
    """
    undisturbed = _undisturbed(side, folder, fault.has_dropout)
    job = Job(folder / side.name / fault.name, fault, fault.has_dropout)
    began = time.monotonic()
    course = _train(side, job)
    seconds = time.monotonic() - began
    model = _model(side, job) if course.ending is Ending.FINISHED else None
    equality = Equality.NOT_COMPARED if fault.changes_model else compare(model, undisturbed)
    right, why = judge(fault, course.ending, model, equality, side.told(job))
    steps = read_steps(job.steps)
    again = None
    if job.begun.exists():
        again = training_again(steps, float(job.begun.read_text()), [attempt.world for attempt in course.attempts])
    else:
        right, why = False, "the fault never came"
    return Outcome(
        fault=fault.name,
        side=side.name,
        right=right,
        why=why,
        ending=course.ending,
        equality=equality,
        loss=model.loss if model and math.isfinite(model.loss) else None,
        steps_lost=steps_lost(steps, workload.STEPS),
        seconds_until_training=None if again is None else round(again, 1),
        seconds=round(seconds, 1),
        exit_codes=course.exit_codes,
        last_words=course.last_words,
    )


def _undisturbed(side: Side, folder: Path, has_dropout: bool) -> Model:
    """Return the model of the side's undisturbed run.

    Raises RuntimeError if the side cannot train even without a fault.
    """
    name = "undisturbed" if has_dropout else "undisturbed-without-dropout"
    job = Job(folder / side.name / name, None, has_dropout)
    kept = job.folder / "model.json"
    if kept.exists():
        return Model(**json.loads(kept.read_text()))
    course = _train(side, job)
    model = _model(side, job)
    if course.exit_codes != [[0] * WORLD] or model is None:
        raise RuntimeError(f"{side.name} did not finish undisturbed: {course}; see {job.folder}")
    kept.write_text(json.dumps(asdict(model)))
    return model


def _model(side: Side, job: Job) -> Model | None:
    adapter, base = side.result(job)
    return workload.measured(adapter, base, workload.evaluation_of(job.data))


def _train(side: Side, job: Job) -> Course:
    """Make attempts until all pods succeed, the side gives up, an attempt hangs, or too many have failed."""
    shutil.rmtree(job.folder, ignore_errors=True)
    for path in (job.workspace, job.steps):
        path.mkdir(parents=True)
    workload.make(job.data, is_spoilt=job.fault is not None and job.fault.act is Act.SPOIL_ROW)
    injector = Injector(side, job)
    course = Course()
    attempt = Attempt(1)
    while True:
        course.attempts.append(attempt)
        codes, moved = _run_attempt(side, job, attempt, injector)
        course.exit_codes.append(codes)
        if not any(codes):
            course.last_words.append("")
            return course
        course.last_words.append(side.last_words(job, attempt, codes)[:MAX_WORDS])
        if attempt.number == 1:
            injector.after_first_attempt()
        following = side.after(job, attempt, codes)
        if not moved or not following.again or attempt.number > MAX_RESTARTS:
            course.ending = _ending(moved, following.again)
            return course
        world = job.fault.world_after if job.fault else WORLD
        attempt = Attempt(attempt.number + 1, world, following.micro_batch)


def _ending(moved: bool, again: bool) -> Ending:
    if not moved:
        return Ending.HUNG
    return Ending.GAVE_UP if again else Ending.STOPPED


def _run_attempt(side: Side, job: Job, attempt: Attempt, injector: Injector) -> tuple[list[int], bool]:
    """Return the exit codes of the pods, and False if they hung and had to be killed."""
    is_late = attempt.number == 1 and job.fault is not None and job.fault.act is Act.START_LATE
    pods: dict[int, Pod] = {}

    def start(index: int) -> None:
        command = side.command(job, attempt, index)
        environment = {**command.environment, **_hook_variables(job, attempt)}
        pods[index] = Pod(Command(command.arguments, environment), job.log(attempt.number, index))

    try:
        for index in reversed(range(attempt.world)):
            if is_late and index == 0:
                injector.begin_with_the_job()
                _sleep_unless_ended(LATE_SECONDS, list(pods.values()))
            start(index)
        if not is_late:
            injector.begin_with_the_job()
        gang = [pods[index] for index in range(attempt.world)]
        return _wait(gang, job, attempt, injector)
    finally:
        for pod in pods.values():
            pod.kill()


def _sleep_unless_ended(seconds: float, pods: Sequence[Pod]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(pod.exit_code is None for pod in pods):
        time.sleep(POLL_SECONDS)


def _wait(pods: Sequence[Pod], job: Job, attempt: Attempt, injector: Injector) -> tuple[list[int], bool]:
    seen, moved_at = 0, time.monotonic()
    while True:
        if attempt.number == 1:
            injector.look(pods)
        if (codes := gang_end(pods)) is not None:
            return codes, True
        steps = sum(path.stat().st_size for path in job.steps.iterdir())
        ended = sum(pod.exit_code is not None for pod in pods)
        if steps + ended != seen:
            seen, moved_at = steps + ended, time.monotonic()
        if time.monotonic() - moved_at > STILL_SECONDS:
            for pod in pods:
                pod.kill()
            return [pod.wait() for pod in pods], False
        time.sleep(POLL_SECONDS)


def _hook_variables(job: Job, attempt: Attempt) -> dict[str, str]:
    inside = job.fault.act.value if job.fault and job.fault.act in INSIDE else ""
    return {
        "PYTHONPATH": str(HOOK),
        "FAULT_FOLDER": str(job.folder),
        "FAULT_ATTEMPT": str(attempt.number),
        "FAULT_ACT": inside,
        "FAULT_STEP": str(FAULT_STEP),
        "FAULT_MEMORY_LIMIT_ROWS": str(MEMORY_LIMIT_ROWS),
        "FAULT_FULL_SECONDS": str(FULL_SECONDS),
    }
