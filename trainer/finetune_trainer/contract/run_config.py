"""run.json: everything that an attempt needs to know. The operator writes it, and every rank attests its digest.

The operator and a pod's image may be of different releases. A field that was added after contract 1 is declared with
`added`: run.json contains it only if the job uses it, and then states in `contract` which version is needed to read it.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from finetune_trainer.contract.message import CONTRACT_VERSION, Message, added, version_needed

NEWER_CONTRACT = "newer_contract"
"""The type of the validation error for a run.json that needs a newer trainer."""
_CONTRACT = "contract"

Task = Literal["CausalLM", "SequenceClassification", "ImageClassification"]
Metric = Literal["accuracy", "f1", "perplexity"]
ZeroStage = Literal[0, 1, 2, 3]


class Source(Message):
    """The location of a model or a dataset.

    The URI is `hf://owner/name`, `workspace://path`, `pvc://claim/path` or `file:///path`.
    """

    uri: str
    revision: str | None = None
    """The revision; only a hub repository has one."""


class Columns(Message):
    """The columns of the dataset by their meaning. CausalLM needs one of text, messages, or prompt with completion."""

    text: str | None = None
    label: str | None = None
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    image: str | None = None


class Dataset(Message):
    """The training rows, and the source of the evaluation rows: their own, or a fraction of the training rows."""

    source: Source
    columns: Columns
    evaluation_fraction: float | None = None
    evaluation_source: Source | None = None
    max_bad_fraction: float | None = added(None, since=2)
    """The fraction of the rows that may have nothing to learn; if absent, the trainer's default applies."""
    max_leak_fraction: float | None = added(None, since=2)
    """The fraction of the evaluation rows that may also be training rows; if absent, the trainer's default applies."""


class Lora(Message):
    """A low-rank adapter. If absent, the training is full fine-tuning."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | None = None
    """The names (or their ends) of the layers that get an adapter; if absent, every linear layer except the head gets
    one."""


class EarlyStopping(Message):
    """Ends a training before its last step if the metric has not improved for a while."""

    patience: int
    """The number of consecutive evaluations without an improvement after which the training ends."""
    min_delta: float
    """The change of the metric up to which it counts as not improved."""


class Training(Message):
    """The hyperparameters. An optimizer step takes `global_batch_size` items, whatever the world size is."""

    epochs: int | None = None
    max_steps: int | None = None
    """Exactly one of epochs and max_steps is set."""
    global_batch_size: int
    micro_batch_size: int
    sequence_length: int
    """The length in tokens to which longer rows are cut. Ignored for images."""
    learning_rate: float
    schedule: Literal["linear", "cosine"]
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    """The norm to which gradients are clipped; 0 means no clipping."""
    precision: Literal["bf16", "fp32"]
    seed: int
    activation_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass instead of kept, which saves memory but takes time."""
    early_stopping: EarlyStopping | None = added(None, since=2)


class Checkpointing(Message):
    """When checkpoints are written, and how many are kept."""

    every_seconds: float
    """Seconds between two checkpoints. There is also one when the pods are asked to stop, and one at the end."""
    keep: int
    """The number of newest checkpoints that are kept; the best one by evaluation metric is kept in addition."""


class Patience(Message):
    """Seconds without any progress after which a rank counts as hung."""

    first_step: float = 900.0
    """The limit for the first step of an attempt, in which kernels are compiled and buffers created, and for saving."""
    step: float = 60.0
    """The limit for a later step, unless ten times the median step is longer."""
    silent: float = 30.0
    """The limit for a rank without a heartbeat: it is frozen, or its node is gone."""


class World(Message):
    """The number of processes that train, and their device."""

    nodes: int
    processes_per_node: int
    device: Literal["cpu", "cuda"]

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


class RunConfig(Message):
    """Everything that an attempt needs to know; the trainer reads no other configuration."""

    namespace: str
    job: str
    uid: str
    """The UID of the FineTuneJob."""
    run: int
    attempt: int
    nonce: str
    """A random text of this attempt: an answer without it is not from this attempt's pods."""
    folder: str
    """The run's folder, relative to the workspace."""
    task: Task
    model: Source
    dataset: Dataset
    lora: Lora | None = None
    training: Training
    zero_stage: ZeroStage
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """The raw keys that are merged last into DeepSpeed's configuration."""
    world: World
    metrics: tuple[Metric, ...]
    """The metrics of the evaluations. The first one decides which model is the best."""
    keep: Literal["Best", "Last"] = added("Last", since=2)
    """Which model is the result: the best one of all evaluations, or the one after the last step."""
    evaluate_every_steps: int | None = added(None, since=2)
    """The optimizer steps between two evaluations; if absent, there is one after each epoch."""
    checkpoint: Checkpointing
    patience: Patience = Patience()
    merge: bool = False
    allow_remote_code: bool = False
    """Whether code that comes with a model's weights may run; only the operator's configuration can allow it."""
    allow_pickle_weights: bool = False
    """Whether weights that are not safetensors may be read; unpickling them runs code in them."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer_contract(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or _CONTRACT not in fields:
            return fields
        written = fields[_CONTRACT]
        if type(written) is not int or written > CONTRACT_VERSION:
            sentence = "this trainer reads contract {read}, but the operator wrote {written}; use a newer image"
            raise PydanticCustomError(NEWER_CONTRACT, sentence, {"read": CONTRACT_VERSION, "written": str(written)})
        return {name: value for name, value in fields.items() if name != _CONTRACT}

    def json_fields(self) -> dict[str, Any]:
        """Return the fields, and in `contract` the oldest version that can read them; if absent, it is 1."""
        needed = version_needed(self)
        return super().json_fields() | ({_CONTRACT: needed} if needed > 1 else {})

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON, in hex, which every rank attests.

        The operator computes it before it writes run.json, and a rank after it has read run.json. Both get the same
        digest, also with code of different releases, because neither writes a field that the other does not know.
        """
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def output(self) -> PurePosixPath:
        """The folder of the saved result, relative to the workspace."""
        return PurePosixPath(self.folder) / "output"
