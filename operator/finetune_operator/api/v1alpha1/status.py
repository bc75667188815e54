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
    """A condition, with the fields of metav1.Condition."""

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
        description=(
            "The newest version of the contract between operator and image that this run's run.json may use, "
            "which is that of the operator that started the run."
        ),
    )
    nonce: str = Field(description="A random text that distinguishes this attempt's pods from all others.")
    image: str | None = None
    image_id: str | None = Field(None, description="The digest of the image that the first running pod uses.")
    claim_name: str = Field(DEFAULT_CLAIM, description="The storage claim of the run, fixed when the run started.")
    generation: int = Field(description="The generation of the spec that this run trains.")
    spec_attempt: Number = Field(1, description="The first attempt with that spec; earlier attempts had another spec.")
    attested: bool = Field(
        False,
        description=(
            "True once all ranks of an attempt have reported. From then on an edit waits for the end of the run."
        ),
    )
    recipe: str = Field(
        description=("The digest of all that determines the model. A different digest asks for another run.")
    )
    wanted: str = Field("", description="The digest of all that asks for another run if this run fails.")
    job_uid: str | None = Field(None, description="The UID of the attempt's Job, once the Job was observed.")
    config_digest: str | None = Field(None, description="The digest of run.json, which every rank must attest.")
    start_time: Time
    attempt_time: Time | None = Field(None, description="When this attempt was decided.")
    not_before: Time | None = Field(None, description="When this attempt may start, if it is delayed.")
    completion_time: Time | None = None
    release: bool = Field(
        False, description=("True if pods were still running at the end of the run and must be deleted.")
    )
    failure_times: list[Time] = Field(
        default_factory=list, description="When the counted failures in the window happened."
    )
    uncounted_in_row: Count = Field(
        0, description=("The number of consecutive attempts that were stopped without a new checkpoint.")
    )
    gave_way_in_row: Count = Field(
        0, description=("The number of consecutive attempts of which only some pods were scheduled.")
    )
    avoid_nodes: list[str] = Field(
        default_factory=list, description="Nodes on which attempts failed twice in the window."
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows in a forward pass, if they were reduced after memory ran out."
    )
    activation_checkpointing: bool = Field(
        False, description=("True if activations are computed again instead of kept, after memory ran out again.")
    )
    checkpoint_step: Count | None = Field(
        None, description="The step of the newest checkpoint when this attempt began."
    )
    grace_seconds: int | None = Field(
        None,
        ge=1,
        le=86_400,
        description=("Seconds between SIGTERM and SIGKILL, which follow from the time that a checkpoint takes."),
    )
    active_seconds: int = Field(0, ge=0, le=10**10, description="Seconds for which earlier attempts held their nodes.")
    nodes: int = Field(ge=1, le=1000)
    world: int = Field(ge=1, le=64_000, description="The number of ranks.")
    zero_stage: int = Field(ge=0, le=3)


class SlowestStatus(StatusModel):
    """The rank whose own work takes longest, if it is much longer than the others'."""

    rank: int
    pod: str | None = None
    node: str | None = None
    times: float = Field(description=("How many times as long as the median rank this rank takes for its own work."))


class ProgressStatus(StatusModel):
    """The progress of the run, as rank 0 reports it."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    eta_seconds: int | None = None
    eta: str | None = Field(None, description="The remaining time in words.")
    heartbeat_time: str | None = None
    step_seconds: float | None = Field(None, description="The median duration of the recent steps, in seconds.")
    skipped_steps: int = Field(
        0, description=("The number of the run's steps whose loss or gradient was not finite; they changed no weight.")
    )
    loss_spikes: int = Field(
        0, description=("The number of the run's steps whose loss was far above that of the steps before.")
    )
    slowest: SlowestStatus | None = None


class CheckpointStatus(StatusModel):
    """The newest checkpoint of the run, as rank 0 reports it."""

    step: Count
    time: Time
    bytes: Count
    save_seconds: float = Field(ge=0, le=10**11, description="Seconds that it took to save the checkpoint.")
    request: str = Field("", description="The newest checkpoint.request that was answered.")
    failure: str | None = Field(None, description="Why a later checkpoint could not be written.")


class FactsStatus(StatusModel):
    """What preparation has found in the data. It contains no text of any row."""

    training_rows: Count
    evaluation_rows: Count
    effective_length: Count | None = Field(
        None,
        description=(
            "The number of tokens to which rows are cut: training.sequenceLength, or less if the model or its "
            "tokenizer has a lower limit."
        ),
    )
    cut_rows: Count = Field(0, description="The number of rows that were longer.")
    empty_rows: Count = Field(0, description="The number of rows in which nothing is left to learn.")
    leaked_rows: Count = Field(
        0, description=("The number of evaluation rows that are also training rows, ignoring case and whitespace.")
    )
    notes: list[str] = Field(
        default_factory=list, description="Observations that are no errors but should be known; the first few."
    )


class EvaluationStatus(StatusModel):
    """Metrics on the evaluation rows, of the model before training and of the saved result."""

    base: dict[str, float]
    final: dict[str, float]


class ResultStatus(StatusModel):
    """The saved model."""

    path: str = Field(description="The path of the model, relative to the root of the storage.")
    uri: str = Field(description="The URI of the model, for another job's model.uri.")
    digest: str
    merged_path: str | None = None
    step: Count | None = Field(None, description="The optimizer step whose weights were saved.")
    last_step: Count | None = Field(
        None, description=("The optimizer step with which the training ended, if it is not the one that was saved.")
    )
    stopped_early: bool = Field(False, description="True if training.earlyStopping ended the training.")
    merge_failure: str | None = Field(
        None, description="Why there is no merged copy although output.merge asked for one."
    )
    trainable_parameters: int
    parameters: int


class LedgerEntry(StatusModel):
    """An attempt that has ended."""

    run: int
    attempt: int
    class_: str = Field(alias="class", description="Success, or the class of the failure.")
    counted: bool = Field(False, description="True if the failure counts towards maxRestarts.")
    message: str
    exit_code: int | None = None
    rank: int | None = None
    node: str | None = None
    pod: str | None = None
    step: int | None = None
    checkpoint_step: int | None = Field(
        None, description="The step of the newest checkpoint at the end of the attempt."
    )
    slowest_rank: int | None = Field(None, description="The rank for which the others waited, if the attempt hung.")
    rows: list[str] = Field(
        default_factory=list, description="Ids of rows whose loss or gradient was not finite; the first few."
    )
    start_time: Time
    end_time: Time
    log: list[str] = Field(default_factory=list, description="The last log lines of the rank that failed first.")


class FineTuneJobStatus(StatusModel):
    """The status, which only the operator writes."""

    observed_generation: int = Field(-1, description="The generation of the spec that this status describes.")
    phase: str | None = Field(None, description="A summary for people. Programs should read the conditions.")
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
    ledger_dropped: Count = Field(0, description="The number of older entries that were removed from the ledger.")
