"""FineTuneJob, version v1alpha1: its spec and its status as pydantic models.

The CRD's schema is generated from these models (`crd.py`); rules over several fields are in `validation.py`.
Descriptions become `kubectl explain`. A default that depends on another field is not in the schema, which could not
tell it from a user's word; the description gives it and `core/resolve.py` fills it in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo
from pydantic.alias_generators import to_camel

from finetune_operator.api.times import from_text
from finetune_operator.constants import API_VERSION, DEFAULT_CLAIM, KIND
from finetune_trainer.contract import MAX_REQUEST_CHARACTERS

Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Uri = Annotated[
    str,
    StringConstraints(
        max_length=1024,
        pattern=r"^(hf://[^/]+/[^/]+|workspace://[^/].*|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[^/].*|file:///[^/].*)$",
    ),
]
Quantity = Annotated[
    int | str,
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "maxLength": 32}),
]
Preserved = dict[str, Any]
"""An object whose keys belong to somebody else: kept as it is, checked by its owner."""


class Model(BaseModel):
    """Base: camelCase in YAML, unknown fields refused, values as written (no coercion from strings)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


# ---- spec -----------------------------------------------------------------------------------------------------------


class ModelSource(Model):
    """The pre-trained model to start from."""

    uri: Uri = Field(
        description="hf://owner/name, workspace://path (in this job's storage), pvc://claim/path, or file:///path "
        "(local runs only). A folder in Hugging Face layout."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub repository. Default: main.")
    secret_name: Name | None = Field(None, description="Secret whose key HF_TOKEN opens private hub repositories.")


class Evaluation(Model):
    """Where the evaluation rows come from: exactly one of the two."""

    fraction: float | None = Field(
        None, gt=0, le=0.5, description="Part of the dataset that is held out, chosen by the content of each row."
    )
    uri: Uri | None = Field(None, description="A dataset of its own, with the same columns.")


class Columns(Model):
    """Names of the dataset's columns."""

    text: Text | None = Field(None, description="Text to classify or, for CausalLM, to continue.")
    label: Text | None = Field(None, description="Class of the row: a name or a number.")
    messages: Text | None = Field(
        None, description="Chat: a list of {role, content}; the assistant's words are learned."
    )
    prompt: Text | None = Field(None, description="What the model is given; goes with completion.")
    completion: Text | None = Field(None, description="What the model shall answer; only this is learned.")
    image: Text | None = Field(None, description="Picture: a path, bytes, or the column of an image folder.")


class Dataset(Model):
    """The rows to learn from."""

    uri: Uri = Field(
        description="A jsonl, csv, parquet or arrow file, a folder of them, an image folder, or a hub dataset."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub repository. Default: main.")
    evaluation: Evaluation = Field(Evaluation(fraction=0.1), description="Rows that are measured, never learned.")
    columns: Columns


class Method(Model):
    """What is trained: all parameters, or a low-rank adapter on the linear layers."""

    type: Literal["Full", "LoRA"] = Field("LoRA", description="A new head is always trained in full.")
    rank: int | None = Field(None, ge=1, le=1024, description="LoRA only. Default: 16.")
    alpha: float | None = Field(None, gt=0, le=4096, description="LoRA only. Default: twice the rank.")
    dropout: float | None = Field(None, ge=0, lt=1, description="LoRA only. Default: 0.")
    target_modules: list[Text] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="LoRA only. Names of layers. Default: every linear layer but the head.",
    )


class Training(Model):
    """The recipe. Micro-batch and accumulation follow from the world and are not the user's."""

    epochs: int | None = Field(
        None, ge=1, le=10_000, description="Passes over the data. Default: 3, unless maxSteps is set."
    )
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimizer steps, instead of epochs.")
    global_batch_size: int = Field(32, ge=1, le=1_000_000, description="Rows in an optimizer step, over all ranks.")
    sequence_length: int | None = Field(
        None, ge=8, le=1_048_576, description="Tokens at which a row is cut; text only. Default: 512."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Highest learning rate. Default: 2e-4 for LoRA, 2e-5 for Full."
    )
    schedule: Literal["linear", "cosine"] = Field(
        "linear", description="How the learning rate falls to 0 after warm-up."
    )
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="Part of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's; none on biases and norms.")
    max_grad_norm: float = Field(
        1.0, ge=0, le=1_000_000, description="Gradients are clipped to this norm; 0: not at all."
    )
    precision: Literal["Auto", "bf16", "fp32"] = Field("Auto", description="Auto: bf16 on GPUs, fp32 on CPUs.")
    seed: int = Field(17, ge=0, le=2_147_483_647, description="Of the order of rows, of dropout and of new parameters.")


class DeepSpeed(Model):
    """How DeepSpeed shares the work."""

    zero_stage: int = Field(
        2,
        ge=0,
        le=3,
        description="What is sharded over the ranks: 0 nothing, 1 optimizer, 2 and gradients, 3 and parameters.",
    )
    config: Preserved = Field(
        default_factory=dict,
        description="Raw keys for DeepSpeed's configuration; keys that the operator plans are refused.",
    )


class Resources(Model):
    """What each attempt runs on: one pod per node."""

    nodes: int = Field(1, ge=1, le=1000, description="Pods of an attempt.")
    gpus_per_node: int = Field(ge=0, le=64, description="GPUs of each pod, one process each. 0: train on the CPU.")
    gpu_resource: Text = Field("nvidia.com/gpu", description="Name of the GPU's extended resource.")
    processes_per_node: int | None = Field(None, ge=1, le=64, description="Without GPUs only. Default: 1.")
    cpu: Quantity = Field("4", description="CPU request and limit of each pod.")
    memory: Quantity = Field("16Gi", description="Memory request and limit of each pod.")
    shared_memory: Quantity = Field("1Gi", description="Size of /dev/shm; counts as memory.")


class PodTemplate(Model):
    """Named fields for the pods; the operator's own values win."""

    node_selector: dict[str, str] | None = Field(None, max_length=64, description="Node labels that the pods need.")
    tolerations: list[Preserved] | None = Field(None, max_length=64, description="Taints that the pods tolerate.")
    affinity: Preserved | None = Field(None, description="To nodes and other pods.")
    env: list[Preserved] | None = Field(None, max_length=256, description="Environment of the trainer.")
    volumes: list[Preserved] | None = Field(None, max_length=64, description="More volumes of the pods.")
    volume_mounts: list[Preserved] | None = Field(
        None, max_length=64, description="Where the trainer finds those volumes."
    )
    annotations: dict[str, str] | None = Field(None, max_length=64, description="Of the pods.")
    labels: dict[str, str] | None = Field(None, max_length=64, description="Of the pods.")
    security_context: Preserved | None = Field(None, description="Of the pod.")
    service_account_name: Name | None = Field(None, description="Of the pods; its token is not mounted.")
    priority_class_name: Name | None = Field(None, description="Of the pods.")
    init_containers: list[Preserved] | None = Field(None, max_length=16, description="Run before the trainer.")


class Storage(Model):
    """The claim that holds data, models and results."""

    claim_name: Name | None = Field(
        None,
        description="Of a PersistentVolumeClaim; ReadWriteMany for several nodes. Default: the operator's "
        "configuration, where it is finetune unless changed.",
    )


class Evaluate(Model):
    """What is measured on the evaluation rows, before training, after each epoch, and on the saved result."""

    metrics: list[Literal["accuracy", "f1", "perplexity"]] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="accuracy, f1 (macro) for classification, perplexity for CausalLM. Default: all that fit the task.",
    )


class Output(Model):
    """What is saved."""

    merge: bool = Field(False, description="LoRA only: save also a copy with the adapter merged in.")


class Checkpoint(Model):
    """When the state of the training is saved, so that the next attempt resumes from there. An edit ends no attempt."""

    every_minutes: float = Field(
        15, gt=0, le=1440, description="Between two checkpoints; a changed one holds from the next attempt on."
    )
    keep: int = Field(
        3,
        ge=1,
        le=100,
        description="Newest checkpoints that are kept, besides the best one; a changed one holds from the next attempt "
        "on.",
    )
    request: Annotated[str, StringConstraints(max_length=MAX_REQUEST_CHARACTERS)] = Field(
        "", description="Any text; a changed one asks the running attempt for a checkpoint."
    )


class FaultTolerance(Model):
    """How often an attempt that failed is followed by another, and how long is waited for what."""

    max_restarts: int = Field(
        3, ge=0, le=50, description="Counted failures within windowMinutes that are followed by another attempt."
    )
    window_minutes: int = Field(60, ge=1, le=10_080, description="Older failures do not count any more.")
    queue_minutes: int | None = Field(
        None, ge=1, le=525_600, description="Until the first pod has a node; then the run fails. Default: for ever."
    )
    gang_minutes: int = Field(
        5,
        ge=1,
        le=1440,
        description="With a node for some pods only; then all give way, uncounted, and try again.",
    )
    startup_minutes: int = Field(
        20, ge=1, le=1440, description="From a node for every pod to a word from every rank; then it counts as failed."
    )
    active_minutes: int | None = Field(
        None, ge=1, le=525_600, description="Of a run's attempts in all, nodes held; then it fails. Default: no limit."
    )
    hang_minutes: int = Field(
        1,
        ge=1,
        le=1440,
        description="Without any progress, or ten times the median step if that is longer; then an attempt ends as "
        "Hung. A changed one holds from the next attempt on.",
    )


class Retrain(Model):
    """When a run is asked for, besides by an edit that changes the model."""

    request: Annotated[str, StringConstraints(max_length=256)] = Field(
        "", description="Any text; a changed one asks for a run, and so starts a failed job again."
    )
    while_running: Literal["Finish", "Replace"] = Field(
        "Finish",
        description="What an edit means for the run that goes on, unless it ends none (suspend, ttl, budgets, "
        "checkpoint).",
    )


class FineTuneJobSpec(Model):
    """What model is wanted."""

    task: Literal["CausalLM", "SequenceClassification", "ImageClassification"] = Field(
        description="What the model does: continue text, tell classes of text, tell classes of pictures."
    )
    model: ModelSource
    dataset: Dataset
    method: Method = Field(Method())
    training: Training = Field(Training())
    deepspeed: DeepSpeed = Field(DeepSpeed())
    resources: Resources
    image: Text | None = Field(None, description="Of the trainer. Default: the operator's configuration.")
    pod_template: PodTemplate = Field(PodTemplate())
    storage: Storage = Field(Storage())
    evaluate: Evaluate = Field(Evaluate())
    output: Output = Field(Output())
    checkpoint: Checkpoint = Field(Checkpoint())
    fault_tolerance: FaultTolerance = Field(FaultTolerance())
    retrain: Retrain = Field(Retrain())
    suspend: bool = Field(False, description="True: the run is stopped, its pods go; false: it goes on.")
    ttl_seconds_after_finished: int | None = Field(
        None,
        ge=0,
        le=31_536_000,
        description="After the end the pods and what belongs to them go; the FineTuneJob and its files stay. "
        "Default: they stay too.",
    )


# ---- status ---------------------------------------------------------------------------------------------------------


def _checked(time: str, info: ValidationInfo) -> str:
    if info.context == READ_BACK:
        from_text(time)
    return time


READ_BACK = "read back"
"""Validation context of a status that comes from a cluster: whoever may write statuses may write anything there."""
Time = Annotated[str, AfterValidator(_checked)]
"""RFC 3339; read back, it is one that can be reckoned with."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[int, Field(ge=1, le=100_000)]
"""Of a run or an attempt; when the children of a run go, all its attempts are gone through."""


class StatusModel(BaseModel):
    """Base of the status: written by the operator alone, read back leniently."""

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
    nonce: str = Field(description="Tells this attempt's pods from all others.")
    image: str | None = None
    image_id: str | None = Field(None, description="What the image was, by digest, where the first pod runs.")
    claim_name: str = Field(DEFAULT_CLAIM, description="Of the storage, as it was when the run started.")
    generation: int = Field(description="Of the spec that this run trains.")
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
    evaluation: EvaluationStatus | None = None
    result: ResultStatus | None = None
    ledger: list[LedgerEntry] = Field(default_factory=list)
    ledger_dropped: Count = Field(0, description="Entries older than those of the ledger.")


class ObjectMeta(BaseModel):
    """The metadata that the operator reads; the rest is not ours."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    name: str
    namespace: str = Field("default", max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    deletion_timestamp: str | None = None


class FineTuneJob(BaseModel):
    """A declaration of the model that is wanted, kept in Git."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]  # the literal is what is checked
    kind: Literal["FineTuneJob"] = KIND  # type: ignore[assignment]
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: FineTuneJobStatus = Field(default_factory=FineTuneJobStatus)
