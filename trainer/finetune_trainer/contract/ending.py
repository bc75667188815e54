"""How a rank, a pod and a training end: their last words, and the saved result."""

from __future__ import annotations

from finetune_trainer.contract.environment import MAX_TERMINATION_MESSAGE_BYTES
from finetune_trainer.contract.facts import Facts
from finetune_trainer.contract.message import Answer, ImageContract, Message
from finetune_trainer.contract.pod_status import CheckpointReport


class Result(Answer):
    """The saved model. `metrics` are those of the saved, reloaded files."""

    path: str
    """Relative to the workspace."""
    digest: str
    """sha256 over the sorted (name, sha256) of its files, in hex."""
    base_metrics: dict[str, float]
    metrics: dict[str, float]
    step: int
    """The optimizer step after which the model was as it is saved."""
    last_step: int | None = None
    """The optimizer step with which the training ended; absent if it is the one that was saved."""
    stopped_early: bool = False
    """Whether the training ended before its last step, because the metric did not improve any more."""
    trainable_parameters: int
    parameters: int
    merged_path: str | None = None
    merge_failure: str | None = None
    """One sentence why there is no merged copy, though one was asked for."""


class RankExit(Message):
    """What a rank writes when it ends, in the pod's scratch folder, for the agent."""

    rank: int
    exit_code: int
    step: int = 0
    world: int | None = None
    config_digest: str | None = None
    error: str | None = None
    """One sentence for people; the traceback is in the log."""
    error_time: float | None = None
    rows: tuple[str, ...] = ()
    """Ids of rows whose loss or gradient was not finite, when the training diverged; the first few."""
    slowest_rank: int | None = None
    """The rank for which all others waited, when the training hung."""
    result: Result | None = None
    """Of rank 0, when done."""


class TerminationMessage(Answer):
    """What a pod leaves behind, at most 4 KiB; `fit` cuts the log to that."""

    pod_uid: str
    index: int
    attempt: int
    nonce: str
    exit_code: int
    world: int | None = None
    """Attested by every rank of the pod; absent if they did not get so far."""
    config_digest: str | None = None
    step: int = 0
    failing_rank: int | None = None
    """The rank of this pod that failed first."""
    error: str | None = None
    error_time: float | None = None
    rows: tuple[str, ...] = ()
    slowest_rank: int | None = None
    checkpoint: CheckpointReport | None = None
    """The newest one that this attempt knows of: written by it, or resumed from."""
    facts: Facts | None = None
    """What preparation has found in the data; of rank 0's pod."""
    result: Result | None = None
    log: tuple[str, ...] = ()
    contract: ImageContract = 1

    def fit(self, limit: int = MAX_TERMINATION_MESSAGE_BYTES) -> str:
        """JSON of at most `limit` bytes: the oldest log lines are left out first, then the notes, then the error is
        cut."""
        message = self
        while len(text := message.to_json().encode()) > limit:
            if message.log:
                message = message.model_copy(update={"log": message.log[1:]})
            elif message.facts and message.facts.notes:
                facts = message.facts.model_copy(update={"notes": message.facts.notes[:-1]})
                message = message.model_copy(update={"facts": facts})
            elif message.error and len(message.error) > 200:
                message = message.model_copy(update={"error": message.error[: len(message.error) // 2] + "…"})
            else:
                raise ValueError(f"a termination message of {len(text)} bytes cannot be cut to {limit}")
        return text.decode()


def last_message_file(attempt: int, index: int) -> str:
    """Return the path, in the run's folder, of a pod's `TerminationMessage`; the log in it is longer."""
    return f"attempts/{attempt}/pod-{index}.json"
