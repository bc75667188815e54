"""The steps of the day in their order: those with the most information per second come first."""

from __future__ import annotations

from gpu_day.measurements import checkpoints, environment, faults, idle, memory, stages, throughput, whole_run
from gpu_day.step import Step

STEPS: tuple[Step, ...] = (
    environment.STEP,
    stages.STEP,
    whole_run.STEP,
    faults.STEP,
    memory.STEP,
    throughput.STEP,
    idle.STEP,
    checkpoints.STEP,
)


def step_of(letter: str) -> Step:
    """Return the step with this letter. Raises KeyError."""
    return {step.letter: step for step in STEPS}[letter]
