"""The answer to `GET /status`: what the ranks of a pod do, and how far the training is."""

from __future__ import annotations

import re
from enum import StrEnum

from finetune_trainer.contract.facts import Facts
from finetune_trainer.contract.message import Answer, ImageContract


class Phase(StrEnum):
    """What a rank is doing."""

    INIT = "init"
    LOAD = "load"
    COMPILE = "compile"
    TRAIN = "train"
    EVAL = "eval"
    SAVE = "save"
    EXPORT = "export"
    CHECK = "check"
    """The saved result is loaded and measured."""
    OTHER = "other"
    """A phase that only a newer image has. No rank writes it; an unknown name is read as this."""

    @classmethod
    def _missing_(cls, value: object) -> Phase | None:
        return cls.OTHER if isinstance(value, str) and _NAME.fullmatch(value) else None


_NAME = re.compile(r"[a-z]{1,32}")


BEFORE_TRAINING = (Phase.INIT, Phase.LOAD, Phase.COMPILE)
"""There is nothing to save yet, and no step in which all ranks would hear of a stop."""


class RankStatus(Answer):
    """One rank's word about itself: what it attests, and that it lives."""

    rank: int
    world: int
    config_digest: str
    backend: str
    zero_stage: int
    phase: Phase
    step: int
    heartbeat: float


class Progress(Answer):
    """How far the training is; told by rank 0."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    """Mean over what is supervised in the last step; absent before the first and when it is not finite."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    """Until the last step, from the speed of the recent ones."""
    step_seconds: float | None = None
    """Median of the recent steps."""
    skipped_steps: int = 0
    """Of the run so far: their loss or gradient was not finite, and no weight changed."""
    skipped_in_row: int = 0
    """Up to now; 0 after a step that was done."""
    loss_spikes: int = 0
    """Of the run so far: steps whose loss was far above that of the steps before."""
    slowest_rank: int | None = None
    """The rank whose own work took longest in the recent steps, if it was much longer than the others'."""
    slowness: float | None = None
    """Its time in multiples of the median rank's."""


class CheckpointReport(Answer):
    """The newest checkpoint that was written and verified; told by rank 0."""

    step: int
    time: float
    bytes: int
    save_seconds: float
    """From the decision to save until it was written and verified."""
    request: str = ""
    """The request (`GET /status?checkpoint=...`) that it answers, or that an earlier one has answered."""
    failure: str | None = None
    """Why one after it could not be written; a sentence that names the path. The training goes on."""


class PodStatus(Answer):
    """The answer of a pod's agent."""

    pod_uid: str
    attempt: int
    nonce: str
    index: int
    ranks: tuple[RankStatus, ...] = ()
    progress: Progress | None = None
    checkpoint: CheckpointReport | None = None
    facts: Facts | None = None
    contract: ImageContract = 1
