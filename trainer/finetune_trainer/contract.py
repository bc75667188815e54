"""What the operator and the trainer say to each other, and nothing else.

The operator writes one `RunConfig` (run.json) per attempt; every rank attests its hash. The agent of each pod answers
`GET /status` with a `PodStatus` and ends with a `TerminationMessage`. Only pydantic is imported here: the operator
imports this module, and the operator's image has no torch.

Times are seconds since the epoch (float); sizes are bytes; JSON keys are camelCase.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

STATUS_PATH = "/status"
REQUEST_PARAMETER = "checkpoint"
"""Of the status path's query: a text, percent-encoded. A new one asks rank 0's pod for a checkpoint; together with"""
NONCE_PARAMETER = "nonce"
"""the attempt's nonce, without which nothing is asked for."""
MAX_REQUEST_CHARACTERS = 256
MAX_STATUS_BYTES = 16 * 1024
MAX_TERMINATION_MESSAGE_BYTES = 4096
"""The kubelet cuts a termination message there."""
MAX_LOG_LINES = 20

ENV_RUN_CONFIG = "FINETUNE_RUN_CONFIG"
"""Path of run.json."""
ENV_WORKSPACE = "FINETUNE_WORKSPACE"
"""Folder where the job's storage is mounted; `workspace://path` is below it."""
ENV_CLAIMS = "FINETUNE_CLAIMS"
"""Folder of the other claims; `pvc://claim/path` is `<claim>/path` below it."""
ENV_SCRATCH = "FINETUNE_SCRATCH"
"""Writable folder of the pod's own, for what the agent and its ranks say to each other."""
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_RENDEZVOUS = "FINETUNE_RENDEZVOUS"
"""host:port of rank 0's store."""
ENV_AGENT_PORT = "FINETUNE_AGENT_PORT"
ENV_GRACE = "FINETUNE_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL (the pod's terminationGracePeriodSeconds); 300 when absent."""
ENV_CPUS = "FINETUNE_CPUS"
"""CPUs of the pod; when absent, the limit of its cgroup."""
ENV_POD_UID = "POD_UID"
ENV_POD_IP = "POD_IP"
ENV_POD_INDEX = "JOB_COMPLETION_INDEX"
"""Set by the Job controller."""


class ExitCode(IntEnum):
    """How a rank, and so its pod, ended. Codes not listed are failures of the infrastructure."""

    DONE = 0
    PREEMPTED = 75
    INVALID = 76
    """The data or the configuration is wrong; trying again cannot help."""
    DIVERGED = 77
    OUT_OF_MEMORY = 78
    HUNG = 79
    MISMATCH = 80
    """A rank found another world size or another configuration than was asked for."""
    SUPERSEDED = 81
    UNTRUSTED = 82
    """No checkpoint could be trusted."""


class FailureClass(StrEnum):
    """Why an attempt ended without success, as the ledger says it."""

    PREEMPTED = "Preempted"
    INVALID = "Invalid"
    DIVERGED = "Diverged"
    OUT_OF_MEMORY = "OutOfMemory"
    HUNG = "Hung"
    MISMATCH = "Mismatch"
    SUPERSEDED = "Superseded"
    UNTRUSTED = "Untrusted"
    INFRASTRUCTURE = "Infrastructure"
    STARTUP_TIMEOUT = "StartupTimeout"
    """All pods had a node, but not all ranks reported in time."""
    UNKNOWN = "Unknown"
    GANG_TIMEOUT = "GangTimeout"
    """Some pods had a node and others found none: all gave way."""
    DEADLINE = "DeadlineExceeded"
    """Of the queue, or of the run."""
    SUSPENDED = "Suspended"
    """By spec.suspend, or by whoever suspended the Job."""
    REPLACED = "Replaced"
    """The spec was edited, and the run was not to be finished."""


CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
    ExitCode.INVALID: FailureClass.INVALID,
    ExitCode.DIVERGED: FailureClass.DIVERGED,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.HUNG: FailureClass.HUNG,
    ExitCode.MISMATCH: FailureClass.MISMATCH,
    ExitCode.SUPERSEDED: FailureClass.SUPERSEDED,
    ExitCode.UNTRUSTED: FailureClass.UNTRUSTED,
}


def class_of(exit_code: int) -> FailureClass:
    """The class of a non-zero exit code."""
    return CLASS_OF_EXIT_CODE.get(exit_code, FailureClass.INFRASTRUCTURE)


class Message(BaseModel):
    """Base of everything here: immutable, camelCase in JSON, unknown keys refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, absent instead of null."""
        fields = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# ---- run.json -------------------------------------------------------------------------------------------------------

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


class Lora(Message):
    """A low-rank adapter; absent means full fine-tuning."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | None = None
    """Names (or their ends) of the layers that get one; absent: every linear layer but the head."""


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
    checkpoint: Checkpointing
    patience: Patience = Patience()
    merge: bool = False
    allow_remote_code: bool = False
    """Whether code that lies beside a model's weights may run; the operator's configuration alone says so."""
    allow_pickle_weights: bool = False
    """Whether weights that are not safetensors may be read: unpickling them runs what is in them."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex: what every rank attests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def output(self) -> PurePosixPath:
        """Folder of the saved result, relative to the workspace."""
        return PurePosixPath(self.folder) / "output"


# ---- GET /status ----------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """What a rank is doing."""

    INIT = "init"
    LOAD = "load"
    COMPILE = "compile"
    TRAIN = "train"
    EVAL = "eval"
    SAVE = "save"
    EXPORT = "export"
    CHECK = "check"
    """The saved result is loaded and measured."""


BEFORE_TRAINING = (Phase.INIT, Phase.LOAD, Phase.COMPILE)
"""There is nothing to save yet, and no step in which all ranks would hear of a stop."""


class RankStatus(Message):
    """One rank's word about itself: what it attests, and that it lives."""

    rank: int
    world: int
    config_digest: str
    backend: str
    zero_stage: int
    phase: Phase
    step: int
    heartbeat: float


class Progress(Message):
    """How far the training is; told by rank 0."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    """Mean over what is supervised in the last step; absent before the first and when it is not finite."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    """Until the last step, from the speed of the recent ones."""
    step_seconds: float | None = None
    """Median of the recent steps."""
    skipped_steps: int = 0
    """Of the run so far: their loss or gradient was not finite, and no weight changed."""
    skipped_in_row: int = 0
    """Up to now; 0 after a step that was done."""
    loss_spikes: int = 0
    """Of the run so far: steps whose loss was far above that of the steps before."""
    slowest_rank: int | None = None
    """The rank whose own work took longest in the recent steps, if it was much longer than the others'."""
    slowness: float | None = None
    """Its time in multiples of the median rank's."""


class CheckpointReport(Message):
    """The newest checkpoint that was written and verified; told by rank 0."""

    step: int
    time: float
    bytes: int
    save_seconds: float
    """From the decision to save until it was written and verified."""
    request: str = ""
    """The request (`GET /status?checkpoint=...`) that it answers, or that an earlier one has answered."""
    failure: str | None = None
    """Why one after it could not be written; a sentence that names the path. The training goes on."""


class PodStatus(Message):
    """The answer of a pod's agent."""

    pod_uid: str
    attempt: int
    nonce: str
    index: int
    ranks: tuple[RankStatus, ...] = ()
    progress: Progress | None = None
    checkpoint: CheckpointReport | None = None


# ---- the end --------------------------------------------------------------------------------------------------------


class Result(Message):
    """The saved model. `metrics` are those of the saved, reloaded files."""

    path: str
    """Relative to the workspace."""
    digest: str
    """sha256 over the sorted (name, sha256) of its files, in hex."""
    base_metrics: dict[str, float]
    metrics: dict[str, float]
    step: int
    trainable_parameters: int
    parameters: int
    merged_path: str | None = None


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


class TerminationMessage(Message):
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
    result: Result | None = None
    log: tuple[str, ...] = ()

    def fit(self, limit: int = MAX_TERMINATION_MESSAGE_BYTES) -> str:
        """JSON of at most `limit` bytes: the oldest log lines are left out first, then the error is cut."""
        message = self
        while len(text := message.to_json().encode()) > limit:
            if message.log:
                message = message.model_copy(update={"log": message.log[1:]})
            elif message.error and len(message.error) > 200:
                message = message.model_copy(update={"error": message.error[: len(message.error) // 2] + "…"})
            else:
                raise ValueError(f"a termination message of {len(text)} bytes cannot be cut to {limit}")
        return text.decode()


def rank_status_file(rank: int) -> str:
    """Name, in the scratch folder, of the file where a rank keeps its `RankStatus`."""
    return f"rank-{rank}.status.json"


def rank_beat_file(rank: int) -> str:
    """Name, in the scratch folder, of the file that a rank touches every few seconds as long as its process runs."""
    return f"rank-{rank}.beat"


def rank_exit_file(rank: int) -> str:
    """Name, in the scratch folder, of the file where a rank leaves its `RankExit`."""
    return f"rank-{rank}.exit.json"


PROGRESS_FILE = "progress.json"
"""Where rank 0 keeps its `Progress`, in the scratch folder of its pod."""
CHECKPOINT_FILE = "checkpoint.json"
"""Where rank 0 keeps its `CheckpointReport`, in the scratch folder of its pod."""
CHECKPOINT_REQUEST_FILE = "checkpoint-request"
"""The newest request for a checkpoint, in the scratch folder of rank 0's pod; its text is the request's."""
STOP_FILE = "stop"
"""Its presence in the scratch folder asks the pod's ranks to stop at the next step."""
