"""The answer to `GET /status`: what the ranks of a pod do, and how far the training has progressed."""

from __future__ import annotations

import re
from enum import StrEnum

from finetune_trainer.contract.facts import Facts
from finetune_trainer.contract.message import Answer, ImageContract


class Phase(StrEnum):
    """The phase that a rank is in."""

    INIT = "init"
    LOAD = "load"
    COMPILE = "compile"
    TRAIN = "train"
    EVAL = "eval"
    SAVE = "save"
    EXPORT = "export"
    CHECK = "check"
    """The phase in which the saved result is loaded and measured."""
    OTHER = "other"
    """A phase that only a newer image has. An unknown phase is read as this one; no rank writes it."""

    @classmethod
    def _missing_(cls, value: object) -> Phase | None:
        return cls.OTHER if isinstance(value, str) and _NAME.fullmatch(value) else None


_NAME = re.compile(r"[a-z]{1,32}")


BEFORE_TRAINING = (Phase.INIT, Phase.LOAD, Phase.COMPILE)
"""The phases in which there is nothing to save yet, and no step in which all ranks would notice a stop request."""


class RankStatus(Answer):
    """The report of one rank: what it attests, and its last heartbeat."""

    rank: int
    world: int
    config_digest: str
    backend: str
    zero_stage: int
    phase: Phase
    step: int
    heartbeat: float


class Progress(Answer):
    """The progress of the training, as rank 0 reports it."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    """The mean loss over the supervised tokens or rows of the last step; absent before the first step and if it is not
    finite."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    """Seconds until the last step, at the speed of the recent steps."""
    step_seconds: float | None = None
    """The median duration of the recent steps, in seconds."""
    skipped_steps: int = 0
    """The number of steps of the run whose loss or gradient was not finite, so that no weight changed."""
    skipped_in_row: int = 0
    """The number of consecutive skipped steps up to now; 0 after a step that was not skipped."""
    loss_spikes: int = 0
    """The number of steps of the run whose loss was far above that of the steps before."""
    slowest_rank: int | None = None
    """The rank whose own work took longest in the recent steps, if it took much longer than that of the others."""
    slowness: float | None = None
    """The time of `slowest_rank` as a multiple of the median rank's."""


class CheckpointReport(Answer):
    """The newest checkpoint that was written and verified, as rank 0 reports it."""

    step: int
    time: float
    bytes: int
    save_seconds: float
    """Seconds from the decision to save until the checkpoint was written and verified."""
    request: str = ""
    """The newest request (`GET /status?checkpoint=TEXT`) that this checkpoint or an earlier one has answered."""
    failure: str | None = None
    """Why a newer checkpoint could not be written or is not used: a sentence that names the path. The training
    continues."""


class PodStatus(Answer):
    """The answer of a pod's agent to `GET /status`."""

    pod_uid: str
    attempt: int
    nonce: str
    index: int
    ranks: tuple[RankStatus, ...] = ()
    progress: Progress | None = None
    checkpoint: CheckpointReport | None = None
    facts: Facts | None = None
    contract: ImageContract = 1
