"""The spec of a FineTuneJob: a description of the model that is wanted. Class docstrings appear in the CRD.

A default that depends on another field is not in the schema: the API server would fill it in, and it could not be
distinguished from a value that the user set. The field's description states it, and `core/run/resolve.py` applies it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from finetune_trainer.contract import MAX_REQUEST_CHARACTERS, Task

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
"""An object whose keys are defined elsewhere, by Kubernetes or DeepSpeed: stored unchanged, and validated there."""


def _with_texts(**longest: int) -> tuple[AfterValidator, FieldInfo]:
    """Return annotations by which some fields of a preserved object must be strings of a maximum length.

    The validation rules read these fields. `longest` maps each field to its maximum number of characters.
    """

    def check(value: Preserved) -> Preserved:
        for name, characters in longest.items():
            if name in value and not (isinstance(value[name], str) and len(value[name]) <= characters):
                raise ValueError(f"{name} must be text of at most {characters} characters")
        return value

    properties: Any = {name: {"type": "string", "maxLength": characters} for name, characters in longest.items()}
    return AfterValidator(check), Field(json_schema_extra={"properties": properties})


NamedVolume = Annotated[Preserved, *_with_texts(name=63)]
VolumeMount = Annotated[Preserved, *_with_texts(name=63, mountPath=1024)]


class Model(BaseModel):
    """The base class of the spec's models: camelCase in YAML, unknown fields are refused, strings are not converted."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


class ModelSource(Model):
    """The pre-trained model to start from."""

    uri: Uri = Field(
        description="hf://owner/name, workspace://path (in this job's storage), pvc://claim/path, or file:///path "
        "(local runs only). A folder in Hugging Face layout."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub repository. Default: main.")
    secret_name: Name | None = Field(None, description="Secret whose key HF_TOKEN opens private hub repositories.")


class Evaluation(Model):
    """The source of the evaluation rows: exactly one of `fraction` and `uri`."""

    fraction: float | None = Field(
        None, gt=0, le=0.5, description="Part of the dataset that is held out, chosen by the content of each row."
    )
    uri: Uri | None = Field(None, description="A dataset of its own, with the same columns.")
    max_leak_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of the evaluation rows that may also be training rows (but for case and blanks); with more, "
        "the job fails. Default: 0.01.",
    )


class Columns(Model):
    """Names of the dataset's columns."""

    text: Text | None = Field(None, description="Text to classify or, for CausalLM, to continue.")
    label: Text | None = Field(None, description="Class of the row: a name or a number.")
    messages: Text | None = Field(
        None,
        description="Chat: a list of {role, content} and what else the model's chat template reads; the assistant's "
        "words are learned, but for messages of weight 0.",
    )
    prompt: Text | None = Field(None, description="What the model is given; goes with completion.")
    completion: Text | None = Field(None, description="What the model shall answer; only this is learned.")
    image: Text | None = Field(None, description="Picture: a path, bytes, or the column of an image folder.")


class Dataset(Model):
    """The rows to learn from."""

    uri: Uri = Field(
        description="A jsonl, csv, tsv, parquet or arrow file, several in one folder as in data/train-*.parquet, a "
        "folder of them, an image folder, or a hub dataset. A folder that holds several splits is refused: name one."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub repository. Default: main.")
    evaluation: Evaluation = Field(Evaluation(fraction=0.1), description="Rows that are measured, never learned.")
    columns: Columns
    max_bad_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of the rows that may have nothing to learn after they are cut to training.sequenceLength; "
        "with more, the job fails. Default: 0.01.",
    )


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
        description="LoRA only. Names of layers. Default: the linear layers of the body on which it has an effect.",
    )


class EarlyStopping(Model):
    """The condition for ending a training early: the first metric of `evaluate` no longer improves."""

    patience: int = Field(ge=1, le=1_000_000, description="Evaluations in a row without an improvement.")
    min_delta: float = Field(
        0, ge=0, le=1_000_000, description="A metric that changes by no more than this has not improved."
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
    early_stopping: EarlyStopping | None = Field(
        None, description="Ends the training when evaluations no longer improve. Default: all steps are trained."
    )
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
    scratch: Quantity | None = Field(
        None,
        description="Space for each pod on its node's disk: caches, temporary files, and models and data of hf://, "
        "which are fetched there; logs count too. A pod that takes more is evicted. What is set here is reserved on "
        "the node. Default: 100Gi, of which nothing is reserved.",
    )


class PodTemplate(Model):
    """Named fields for the pods; the operator's own values win."""

    node_selector: dict[str, str] | None = Field(None, max_length=64, description="Node labels that the pods need.")
    tolerations: list[Preserved] | None = Field(None, max_length=64, description="Taints that the pods tolerate.")
    affinity: Preserved | None = Field(None, description="To nodes and other pods.")
    env: list[Preserved] | None = Field(None, max_length=256, description="Environment of the trainer.")
    volumes: list[NamedVolume] | None = Field(None, max_length=64, description="More volumes of the pods.")
    volume_mounts: list[VolumeMount] | None = Field(
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
    """What is measured on the evaluation rows, before training, during it, and on the saved result."""

    metrics: list[Literal["accuracy", "f1", "perplexity"]] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="accuracy, f1 (macro) for classification, perplexity for CausalLM. The first one tells which model "
        "is the best. Default: all that fit the task.",
    )
    keep: Literal["Best", "Last"] = Field(
        "Best", description="Which model is the result: the best one of all evaluations, or that of the last step."
    )
    every_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Optimizer steps between evaluations. Default: one after each epoch."
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
        description="What an edit means for a run that has trained and goes on, unless it ends none (suspend, ttl, "
        "budgets, checkpoint). A run that has not trained yet follows an edit at once.",
    )


class FineTuneJobSpec(Model):
    """What model is wanted."""

    task: Task = Field(
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
