"""run.json: all that an attempt needs to know. The operator writes it; every rank attests its digest.

The operator and a pod's image may be of different releases. A field that is not of contract 1 is declared with `added`:
run.json holds it only when the job uses it, and then says in `contract` which version it takes to read it.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from finetune_trainer.contract.message import CONTRACT_VERSION, Message, added, version_needed

NEWER_CONTRACT = "newer_contract"
"""The type of the validation error of a run.json that takes a newer trainer."""
_CONTRACT = "contract"

Task = Literal["CausalLM", "SequenceClassification", "ImageClassification"]
Metric = Literal["accuracy", "f1", "perplexity"]
ZeroStage = Literal[0, 1, 2, 3]


class Source(Message):
    """Where a model or a dataset is: `hf://owner/name`, `workspace://path`, `pvc://claim/path` or `file:///path`."""

    uri: str
    revision: str | None = None
    """Of a hub repository only."""


class Columns(Message):
    """Which column of the dataset means what. For CausalLM one of text, messages, or prompt with completion."""

    text: str | None = None
    label: str | None = None
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    image: str | None = None


class Dataset(Message):
    """Training rows, and where the evaluation rows come from: a source of their own or a fraction of these."""

    source: Source
    columns: Columns
    evaluation_fraction: float | None = None
    evaluation_source: Source | None = None
    max_bad_fraction: float | None = added(None, since=2)
    """Part of the rows that may have nothing to learn; absent: the trainer's default."""
    max_leak_fraction: float | None = added(None, since=2)
    """Part of the evaluation rows that may also be training rows; absent: the trainer's default."""


class Lora(Message):
    """A low-rank adapter; absent means full fine-tuning."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | None = None
    """Names (or their ends) of the layers that get one; absent: every linear layer but the head."""


class EarlyStopping(Message):
    """When a training ends before its last step: the metric has not improved for a while."""

    patience: int
    """Evaluations in a row without an improvement."""
    min_delta: float
    """A metric that changes by no more than this has not improved."""


class Training(Message):
    """The recipe. An optimizer step takes `global_batch_size` items, whatever the world is."""

    epochs: int | None = None
    max_steps: int | None = None
    """Exactly one of epochs and max_steps is set."""
    global_batch_size: int
    micro_batch_size: int
    sequence_length: int
    """Tokens; longer rows are cut. Ignored for images."""
    learning_rate: float
    schedule: Literal["linear", "cosine"]
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    """0 means no clipping."""
    precision: Literal["bf16", "fp32"]
    seed: int
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of being kept: memory for time."""
    early_stopping: EarlyStopping | None = added(None, since=2)


class Checkpointing(Message):
    """When the state of the training is saved, and how much of it is kept."""

    every_seconds: float
    """Between two checkpoints; besides them there is one when the pods are asked to stop, and one at the end."""
    keep: int
    """Newest checkpoints that are kept; the best by evaluation metric is kept besides them."""


class Patience(Message):
    """Seconds without any progress after which a rank counts as hung."""

    first_step: float = 900.0
    """Of the first step of an attempt, in which kernels are compiled and buffers made; also of saving."""
    step: float = 60.0
    """Of a later step, if that is more than ten times the median step."""
    silent: float = 30.0
    """Of a rank that does not even say that it lives: it is frozen, or its node is gone."""


class World(Message):
    """How many processes train and on what."""

    nodes: int
    processes_per_node: int
    device: Literal["cpu", "cuda"]

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


class RunConfig(Message):
    """All that an attempt needs to know; the trainer reads nothing else."""

    namespace: str
    job: str
    uid: str
    """Of the FineTuneJob."""
    run: int
    attempt: int
    nonce: str
    """Random, of this attempt: an answer without it is not from this attempt's pods."""
    folder: str
    """Of the run, relative to the workspace."""
    task: Task
    model: Source
    dataset: Dataset
    lora: Lora | None = None
    training: Training
    zero_stage: ZeroStage
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Raw keys, merged last into DeepSpeed's configuration."""
    world: World
    metrics: tuple[Metric, ...]
    """The first one tells which model is the best."""
    keep: Literal["Best", "Last"] = added("Last", since=2)
    """Which model is the result: the best one of all evaluations, or that of the last step."""
    evaluate_every_steps: int | None = added(None, since=2)
    """Optimizer steps between two evaluations; absent: one after each epoch."""
    checkpoint: Checkpointing
    patience: Patience = Patience()
    merge: bool = False
    allow_remote_code: bool = False
    """Whether code that lies beside a model's weights may run; the operator's configuration alone says so."""
    allow_pickle_weights: bool = False
    """Whether weights that are not safetensors may be read: unpickling them runs what is in them."""

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
        """The fields, and in `contract` the oldest version that can read them; absent means 1."""
        needed = version_needed(self)
        return super().json_fields() | ({_CONTRACT: needed} if needed > 1 else {})

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex: what every rank attests.

        The operator computes it before it writes run.json, a rank after it has read run.json. Both find the same, also
        in code of different releases, because neither writes a field that the other does not know.
        """
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def output(self) -> PurePosixPath:
        """Folder of the saved result, relative to the workspace."""
        return PurePosixPath(self.folder) / "output"
