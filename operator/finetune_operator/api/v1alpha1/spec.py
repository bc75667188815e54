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
        None,
        gt=0,
        le=0.5,
        description=("The fraction of the dataset that is held out. Rows are chosen by their content."),
    )
    uri: Uri | None = Field(None, description="A separate dataset with the same columns.")
    max_leak_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description=(
            "The fraction of the evaluation rows that may also be training rows, ignoring case and whitespace. "
            "With more, the job fails. Default: 0.01."
        ),
    )


class Columns(Model):
    """Names of the dataset's columns."""

    text: Text | None = Field(None, description="The text to classify, or to continue for CausalLM.")
    label: Text | None = Field(None, description="The class of the row: a name or a number.")
    messages: Text | None = Field(
        None,
        description=(
            "A chat: a list of {role, content} with the other keys that the model's chat template reads. The "
            "assistant's messages are learned, except those with weight 0."
        ),
    )
    prompt: Text | None = Field(None, description="The text that the model is given. Requires completion.")
    completion: Text | None = Field(
        None, description="The text that the model should answer; only this text is learned."
    )
    image: Text | None = Field(None, description="A picture: a path, bytes, or the column of an image folder.")


class Dataset(Model):
    """The rows to learn from."""

    uri: Uri = Field(
        description="A jsonl, csv, tsv, parquet or arrow file, several in one folder as in data/train-*.parquet, a "
        "folder of them, an image folder, or a hub dataset. A folder that holds several splits is refused: name one."
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub repository. Default: main.")
    evaluation: Evaluation = Field(
        Evaluation(fraction=0.1), description="The rows that are evaluated and never learned."
    )
    columns: Columns
    max_bad_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description=(
            "The fraction of the rows that may have nothing to learn after they are cut to "
            "training.sequenceLength. With more, the job fails. Default: 0.01."
        ),
    )


class Method(Model):
    """What is trained: all parameters, or a low-rank adapter on the linear layers."""

    type: Literal["Full", "LoRA"] = Field(
        "LoRA",
        description=(
            "Full trains all parameters; LoRA trains a low-rank adapter. A new head is always trained in full."
        ),
    )
    rank: int | None = Field(None, ge=1, le=1024, description="The rank of the adapter; LoRA only. Default: 16.")
    alpha: float | None = Field(
        None, gt=0, le=4096, description="The scale of the adapter; LoRA only. Default: twice the rank."
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="The dropout of the adapter; LoRA only. Default: 0.")
    target_modules: list[Text] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description=(
            "Names of the layers that get an adapter; LoRA only. Default: the linear layers of the body on which "
            "an adapter has an effect."
        ),
    )


class EarlyStopping(Model):
    """The condition for ending a training early: the first metric of `evaluate` no longer improves."""

    patience: int = Field(
        ge=1, le=1_000_000, description="The number of consecutive evaluations without an improvement."
    )
    min_delta: float = Field(
        0,
        ge=0,
        le=1_000_000,
        description="A change of the metric that is not larger than this is no improvement.",
    )


class Training(Model):
    """The recipe of the training. The micro-batch and the number of accumulation steps follow from the world."""

    epochs: int | None = Field(
        None, ge=1, le=10_000, description=("The number of passes over the data. Default: 3, unless maxSteps is set.")
    )
    max_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="The number of optimizer steps, instead of epochs."
    )
    global_batch_size: int = Field(
        32, ge=1, le=1_000_000, description="The number of rows in an optimizer step, over all ranks."
    )
    sequence_length: int | None = Field(
        None, ge=8, le=1_048_576, description="The number of tokens to which a row is cut; text only. Default: 512."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="The highest learning rate. Default: 2e-4 for LoRA, 2e-5 for Full."
    )
    schedule: Literal["linear", "cosine"] = Field(
        "linear", description="How the learning rate falls to 0 after the warm-up."
    )
    warmup_fraction: float = Field(
        0.1, ge=0, le=1, description="The fraction of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="The weight decay of AdamW. Biases and norms have none.")
    max_grad_norm: float = Field(
        1.0, ge=0, le=1_000_000, description="The norm to which gradients are clipped; 0 turns clipping off."
    )
    precision: Literal["Auto", "bf16", "fp32"] = Field("Auto", description="Auto: bf16 on GPUs, fp32 on CPUs.")
    early_stopping: EarlyStopping | None = Field(
        None, description=("Ends the training when evaluations no longer improve. Default: all steps are trained.")
    )
    seed: int = Field(
        17, ge=0, le=2_147_483_647, description="The seed for the order of rows, for dropout and for new parameters."
    )


class DeepSpeed(Model):
    """How DeepSpeed shares the work."""

    zero_stage: int = Field(
        2,
        ge=0,
        le=3,
        description=(
            "What is sharded over the ranks. 0: nothing; 1: the optimizer state; 2: also gradients; 3: also parameters."
        ),
    )
    config: Preserved = Field(
        default_factory=dict,
        description=("Raw keys of DeepSpeed's configuration. Keys that the operator sets itself are refused."),
    )


class Resources(Model):
    """The resources of each attempt, which has one pod for each node."""

    nodes: int = Field(1, ge=1, le=1000, description="The number of pods of an attempt.")
    gpus_per_node: int = Field(
        ge=0, le=64, description=("The number of GPUs of each pod; each GPU gets one process. 0 trains on the CPU.")
    )
    gpu_resource: Text = Field("nvidia.com/gpu", description="The name of the GPU's extended resource.")
    processes_per_node: int | None = Field(
        None, ge=1, le=64, description="The number of processes of each pod without GPUs. Default: 1."
    )
    cpu: Quantity = Field("4", description="The CPU request and limit of each pod.")
    memory: Quantity = Field("16Gi", description="The memory request and limit of each pod.")
    shared_memory: Quantity = Field("1Gi", description="The size of /dev/shm; it counts as memory.")
    scratch: Quantity | None = Field(
        None,
        description=(
            "The space for each pod on its node's disk: caches, temporary files, models and data that are fetched"
            " from hf://, and logs. A pod that takes more is evicted. The amount is reserved on the node. "
            "Default: a limit of 100Gi, of which nothing is reserved."
        ),
    )


class PodTemplate(Model):
    """Fields of the pods that a user may set. Where the operator sets a value itself, that value wins."""

    node_selector: dict[str, str] | None = Field(None, max_length=64, description="Labels that a node must have.")
    tolerations: list[Preserved] | None = Field(None, max_length=64, description="Taints that the pods tolerate.")
    affinity: Preserved | None = Field(None, description="Affinity of the pods to nodes and to other pods.")
    env: list[Preserved] | None = Field(
        None, max_length=256, description="Environment variables of the trainer's container."
    )
    volumes: list[NamedVolume] | None = Field(None, max_length=64, description="Additional volumes of the pods.")
    volume_mounts: list[VolumeMount] | None = Field(
        None, max_length=64, description="Where the trainer's container mounts the additional volumes."
    )
    annotations: dict[str, str] | None = Field(None, max_length=64, description="Annotations of the pods.")
    labels: dict[str, str] | None = Field(None, max_length=64, description="Labels of the pods.")
    security_context: Preserved | None = Field(None, description="The security context of the pods.")
    service_account_name: Name | None = Field(
        None, description="The service account of the pods; its token is not mounted."
    )
    priority_class_name: Name | None = Field(None, description="The priority class of the pods.")
    init_containers: list[Preserved] | None = Field(
        None, max_length=16, description="Containers that run before the trainer's container."
    )


class Storage(Model):
    """The claim that holds data, models and results."""

    claim_name: Name | None = Field(
        None,
        description=(
            "The name of a PersistentVolumeClaim. Several nodes need a ReadWriteMany claim. Default: the claim in"
            " the operator's configuration, which is finetune unless it was changed."
        ),
    )


class Evaluate(Model):
    """What is evaluated on the evaluation rows: before the training, during it, and on the saved result."""

    metrics: list[Literal["accuracy", "f1", "perplexity"]] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description=(
            "accuracy and f1 (macro) for classification, perplexity for CausalLM. The first metric decides which "
            "model is the best. Default: all metrics of the task."
        ),
    )
    keep: Literal["Best", "Last"] = Field(
        "Best", description=("Which model is the result: the best one of all evaluations, or the one of the last step.")
    )
    every_steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description=("The number of optimizer steps between evaluations. Default: one evaluation after each epoch."),
    )


class Output(Model):
    """What is saved."""

    merge: bool = Field(False, description="Also save a copy of the model with the adapter merged in; LoRA only.")


class Checkpoint(Model):
    """When the state of the training is saved, so that the next attempt resumes from there. An edit ends no attempt."""

    every_minutes: float = Field(
        15, gt=0, le=1440, description=("Minutes between two checkpoints. A change applies from the next attempt on.")
    )
    keep: int = Field(
        3,
        ge=1,
        le=100,
        description=(
            "The number of newest checkpoints that are kept, besides the best one. A change applies from the next"
            " attempt on."
        ),
    )
    request: Annotated[str, StringConstraints(max_length=MAX_REQUEST_CHARACTERS)] = Field(
        "", description="Any text. A changed text asks the running attempt for a checkpoint."
    )


class FaultTolerance(Model):
    """How often a failed attempt is followed by another, and how long each kind of wait may last."""

    max_restarts: int = Field(
        3,
        ge=0,
        le=50,
        description=(
            "The number of counted failures within windowMinutes after which another attempt is still started."
        ),
    )
    window_minutes: int = Field(60, ge=1, le=10_080, description="Minutes after which a failure no longer counts.")
    queue_minutes: int | None = Field(
        None,
        ge=1,
        le=525_600,
        description=("Minutes until the first pod must be scheduled; then the run fails. Default: no limit."),
    )
    gang_minutes: int = Field(
        5,
        ge=1,
        le=1440,
        description=(
            "Minutes for which only some pods may be scheduled. Then the attempt releases its nodes and is tried "
            "again; this is not counted."
        ),
    )
    startup_minutes: int = Field(
        20,
        ge=1,
        le=1440,
        description=(
            "Minutes from all pods scheduled to all ranks reporting. After that the attempt counts as failed."
        ),
    )
    active_minutes: int | None = Field(
        None,
        ge=1,
        le=525_600,
        description=(
            "Minutes for which all attempts of a run together may hold their nodes; then the run fails. Default: "
            "no limit."
        ),
    )
    hang_minutes: int = Field(
        1,
        ge=1,
        le=1440,
        description=(
            "Minutes without any progress, or ten times the median step time if that is longer, after which an "
            "attempt ends as Hung. A change applies from the next attempt on."
        ),
    )


class Retrain(Model):
    """What asks for a new run, besides an edit that changes the model."""

    request: Annotated[str, StringConstraints(max_length=256)] = Field(
        "", description=("Any text. A changed text asks for a new run, and so starts a failed job again.")
    )
    while_running: Literal["Finish", "Replace"] = Field(
        "Finish",
        description=(
            "What an edit does to a run that has already trained: Finish lets the run end first, Replace ends it."
            " An edit that asks for no other model (suspend, ttl, budgets, checkpoint) ends no run. A run that "
            "has not trained yet follows an edit at once."
        ),
    )


class FineTuneJobSpec(Model):
    """The model that is wanted."""

    task: Task = Field(
        description=("What the model does: CausalLM continues text, the others classify text or pictures.")
    )
    model: ModelSource
    dataset: Dataset
    method: Method = Field(Method())
    training: Training = Field(Training())
    deepspeed: DeepSpeed = Field(DeepSpeed())
    resources: Resources
    image: Text | None = Field(
        None, description=("The trainer's image. Default: the image in the operator's configuration.")
    )
    pod_template: PodTemplate = Field(PodTemplate())
    storage: Storage = Field(Storage())
    evaluate: Evaluate = Field(Evaluate())
    output: Output = Field(Output())
    checkpoint: Checkpoint = Field(Checkpoint())
    fault_tolerance: FaultTolerance = Field(FaultTolerance())
    retrain: Retrain = Field(Retrain())
    suspend: bool = Field(False, description="True stops the run and deletes its pods; false lets it go on.")
    ttl_seconds_after_finished: int | None = Field(
        None,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds after the end of a run until its pods and their other objects are deleted. The FineTuneJob "
            "and its files stay. Default: nothing is deleted."
        ),
    )
