"""The messages with which a rank, a pod and a training end, and the saved result."""

from __future__ import annotations

from finetune_trainer.contract.environment import MAX_TERMINATION_MESSAGE_BYTES
from finetune_trainer.contract.facts import Facts
from finetune_trainer.contract.message import Answer, ImageContract, Message
from finetune_trainer.contract.pod_status import CheckpointReport


class Result(Answer):
    """The saved model. `metrics` were measured on the saved files after they were loaded again."""

    path: str
    """The folder of the saved model, relative to the workspace."""
    digest: str
    """The sha256 over the sorted (name, sha256) pairs of its files, in hex."""
    base_metrics: dict[str, float]
    metrics: dict[str, float]
    step: int
    """The optimizer step whose model was saved."""
    last_step: int | None = None
    """The optimizer step at which the training ended; absent if it is the one that was saved."""
    stopped_early: bool = False
    """Whether the training ended before its last step because the metric no longer improved."""
    trainable_parameters: int
    parameters: int
    merged_path: str | None = None
    merge_failure: str | None = None
    """One sentence on why there is no merged copy although one was requested."""


class RankExit(Message):
    """What a rank writes to the pod's scratch folder, for the agent, when it ends."""

    rank: int
    exit_code: int
    step: int = 0
    world: int | None = None
    config_digest: str | None = None
    error: str | None = None
    """One sentence for the user; the traceback is in the log."""
    error_time: float | None = None
    rows: tuple[str, ...] = ()
    """The ids of the first few rows whose loss or gradient was not finite, if the training diverged."""
    slowest_rank: int | None = None
    """The rank for which all others waited, if the training hung."""
    result: Result | None = None
    """The result of the training; only rank 0 reports it, and only on success."""


class TerminationMessage(Answer):
    """A pod's termination message of at most 4 KiB, to which `fit` shortens it."""

    pod_uid: str
    index: int
    attempt: int
    nonce: str
    exit_code: int
    world: int | None = None
    """The world size that every rank of the pod attested; absent if the ranks did not get so far."""
    config_digest: str | None = None
    step: int = 0
    failing_rank: int | None = None
    """The rank of this pod that failed first."""
    error: str | None = None
    error_time: float | None = None
    rows: tuple[str, ...] = ()
    slowest_rank: int | None = None
    checkpoint: CheckpointReport | None = None
    """The newest checkpoint that this attempt wrote or resumed from."""
    facts: Facts | None = None
    """What preparation found in the data; only rank 0's pod reports it."""
    result: Result | None = None
    log: tuple[str, ...] = ()
    contract: ImageContract = 1

    def fit(self, limit: int = MAX_TERMINATION_MESSAGE_BYTES) -> str:
        """Return JSON of at most `limit` bytes. Raises ValueError if the message cannot be shortened that far.

        The oldest log lines are left out first, then the notes, and then the error is cut.
        """
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
    """Return the path of a pod's `TerminationMessage` in the run's folder; that copy has a longer log."""
    return f"attempts/{attempt}/pod-{index}.json"
