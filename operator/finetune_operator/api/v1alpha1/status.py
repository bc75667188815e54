"""The status of a FineTuneJob, which only the operator writes. Class docstrings appear in the CRD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic.alias_generators import to_camel

from finetune_operator.api.times import from_text
from finetune_operator.constants import DEFAULT_CLAIM


def _checked(time: str, info: ValidationInfo) -> str:
    if info.context == READ_BACK:
        from_text(time)
    return time


READ_BACK = "read back"
"""The validation context of a status that was read from a cluster, where other clients may have written any value."""
Time = Annotated[str, AfterValidator(_checked)]
"""A time in RFC 3339. When a status is read from a cluster, it must be in the range that `api/times.py` accepts."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[int, Field(ge=1, le=100_000)]
"""The number of a run or an attempt; bounded, because deleting a run's children iterates over all its attempts."""


class StatusModel(BaseModel):
    """The base class of the status's models; unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Condition(StatusModel):
    """As metav1.Condition."""

    type: str = Field(max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=1024)
    message: str = Field(max_length=32768)
    last_transition_time: Time
    observed_generation: int


class RunStatus(StatusModel):
    """The newest run and its attempt."""

    number: Number
    attempt: Number
    contract: int = Field(
        1,
        ge=1,
        description="Newest version of the contract with the image that this run's run.json may use: that of the "
        "operator that started the run.",
    )
    nonce: str = Field(description="Tells this attempt's pods from all others.")
    image: str | None = None
    image_id: str | None = Field(None, description="What the image was, by digest, where the first pod runs.")
    claim_name: str = Field(DEFAULT_CLAIM, description="Of the storage, as it was when the run started.")
    generation: int = Field(description="Of the spec that this run trains.")
    spec_attempt: Number = Field(1, description="The first attempt with that spec; earlier ones had another.")
    attested: bool = Field(False, description="All ranks of an attempt have reported; from then on an edit waits.")
    recipe: str = Field(description="Digest of what is trained; another one asks for another run.")
    wanted: str = Field("", description="Digest of all that asks for another run if this one fails.")
    job_uid: str | None = Field(None, description="Of the attempt's Job, once it was seen.")
    config_digest: str | None = Field(None, description="Of run.json, as every rank must attest it.")
    start_time: Time
    attempt_time: Time | None = Field(None, description="When this attempt was decided.")
    not_before: Time | None = Field(None, description="When this attempt starts, if it waits.")
    completion_time: Time | None = None
    release: bool = Field(False, description="The pods were not done at the end, and are to go.")
    failure_times: list[Time] = Field(default_factory=list, description="Of the counted failures in the window.")
    uncounted_in_row: Count = Field(0, description="Attempts in a row that were stopped without a new checkpoint.")
    gave_way_in_row: Count = Field(0, description="Attempts in a row that had nodes for a part of their pods.")
    avoid_nodes: list[str] = Field(default_factory=list, description="They failed twice in the window.")
    micro_batch_size: int | None = Field(None, ge=1, description="Smaller than planned, after memory ran out.")
    activation_checkpointing: bool = Field(
        False, description="Whether activations are computed again instead of kept, after memory ran out again."
    )
    checkpoint_step: Count | None = Field(None, description="Of the newest checkpoint when this attempt began.")
    grace_seconds: int | None = Field(
        None, ge=1, le=86_400, description="Between SIGTERM and SIGKILL, by the time that a checkpoint takes."
    )
    active_seconds: int = Field(0, ge=0, le=10**10, description="In which earlier attempts held their nodes.")
    nodes: int = Field(ge=1, le=1000)
    world: int = Field(ge=1, le=64_000, description="Number of ranks.")
    zero_stage: int = Field(ge=0, le=3)


class SlowestStatus(StatusModel):
    """The rank whose own work takes longest, if it is much longer than the others'."""

    rank: int
    pod: str | None = None
    node: str | None = None
    times: float = Field(description="As long as the median rank's.")


class ProgressStatus(StatusModel):
    """How far the run is; told by rank 0."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    eta_seconds: int | None = None
    eta: str | None = Field(None, description="The same, for people.")
    heartbeat_time: str | None = None
    step_seconds: float | None = Field(None, description="Median of the recent steps.")
    skipped_steps: int = Field(0, description="Of the run: their loss or gradient was not finite; no weight changed.")
    loss_spikes: int = Field(0, description="Of the run: steps whose loss was far above that of the steps before.")
    slowest: SlowestStatus | None = None


class CheckpointStatus(StatusModel):
    """The newest checkpoint of the run; told by rank 0."""

    step: Count
    time: Time
    bytes: Count
    save_seconds: float = Field(ge=0, le=10**11, description="That it took to save it.")
    request: str = Field("", description="The newest of checkpoint.request that was answered.")
    failure: str | None = Field(None, description="Why one after it could not be written.")


class FactsStatus(StatusModel):
    """What preparation has found in the data. No text of any row is in it."""

    training_rows: Count
    evaluation_rows: Count
    effective_length: Count | None = Field(
        None,
        description="Tokens at which rows are cut: training.sequenceLength, or less where the model or its tokenizer "
        "has a lower limit.",
    )
    cut_rows: Count = Field(0, description="Rows that were longer.")
    empty_rows: Count = Field(0, description="Rows in which nothing is left to learn.")
    leaked_rows: Count = Field(0, description="Evaluation rows that are also training rows, but for case and blanks.")
    notes: list[str] = Field(
        default_factory=list, description="Sentences on what is not wrong, but should be known; the first few."
    )


class EvaluationStatus(StatusModel):
    """Metrics on the evaluation rows: of the model before training, and of the saved result."""

    base: dict[str, float]
    final: dict[str, float]


class ResultStatus(StatusModel):
    """Where the model is."""

    path: str = Field(description="In the storage, relative to its root.")
    uri: str = Field(description="For another job's model.uri.")
    digest: str
    merged_path: str | None = None
    step: Count | None = Field(None, description="Optimizer step after which the model was as it is saved.")
    last_step: Count | None = Field(
        None, description="Optimizer step with which the training ended, if it is not the one that was saved."
    )
    stopped_early: bool = Field(False, description="Whether training.earlyStopping ended the training.")
    merge_failure: str | None = Field(
        None, description="Why there is no merged copy, though output.merge asked for one."
    )
    trainable_parameters: int
    parameters: int


class LedgerEntry(StatusModel):
    """An attempt that has ended."""

    run: int
    attempt: int
    class_: str = Field(alias="class", description="Success, or the class of the failure.")
    counted: bool = Field(False, description="Towards maxRestarts.")
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str | None = None
    pod: str | None = None
    step: int | None = None
    checkpoint_step: int | None = Field(None, description="Of the newest checkpoint at its end.")
    slowest_rank: int | None = Field(None, description="For which the others waited, when it hung.")
    rows: list[str] = Field(
        default_factory=list, description="Ids of rows whose loss or gradient was not finite; the first few."
    )
    start_time: Time
    end_time: Time
    log: list[str] = Field(default_factory=list, description="Last lines of the rank that failed first.")


class FineTuneJobStatus(StatusModel):
    """Written by the operator alone."""

    observed_generation: int = Field(-1, description="Of the spec that this status speaks of.")
    phase: str | None = Field(None, description="For people; programs read the conditions.")
    conditions: list[Condition] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    run: RunStatus | None = None
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    facts: FactsStatus | None = None
    evaluation: EvaluationStatus | None = None
    result: ResultStatus | None = None
    ledger: list[LedgerEntry] = Field(default_factory=list)
    ledger_dropped: Count = Field(0, description="Entries older than those of the ledger.")
