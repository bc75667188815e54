"""What the operator and the trainer say to each other, and nothing else.

The operator writes one `RunConfig` (run.json) per attempt; every rank attests its hash. The agent of each pod answers
`GET /status` with a `PodStatus` and ends with a `TerminationMessage`. Operator and image may be of different releases:
`message.py` has the rules by which the contract grows. Only pydantic is imported here: the operator
imports this package, and the operator's image has no torch.

Times are seconds since the epoch (float); sizes are bytes; JSON keys are camelCase.
"""

from finetune_trainer.contract.ending import RankExit, Result, TerminationMessage
from finetune_trainer.contract.environment import (
    ENV_AGENT_PORT,
    ENV_CLAIMS,
    ENV_CPUS,
    ENV_GRACE,
    ENV_POD_INDEX,
    ENV_POD_IP,
    ENV_POD_UID,
    ENV_RENDEZVOUS,
    ENV_RUN_CONFIG,
    ENV_SCRATCH,
    ENV_TERMINATION_LOG,
    ENV_WORKSPACE,
    MAX_LOG_LINES,
    MAX_REQUEST_CHARACTERS,
    MAX_STATUS_BYTES,
    MAX_TERMINATION_MESSAGE_BYTES,
    NONCE_PARAMETER,
    REQUEST_PARAMETER,
    STATUS_PATH,
)
from finetune_trainer.contract.failures import CLASS_OF_EXIT_CODE, ExitCode, FailureClass, class_of
from finetune_trainer.contract.message import CONTRACT_VERSION, Answer, Message, added, version_needed
from finetune_trainer.contract.methods import METHODS, MethodEntry
from finetune_trainer.contract.pod_status import (
    BEFORE_TRAINING,
    CheckpointReport,
    Phase,
    PodStatus,
    Progress,
    RankStatus,
)
from finetune_trainer.contract.run_config import (
    NEWER_CONTRACT,
    Checkpointing,
    Columns,
    Dataset,
    Lora,
    Metric,
    Patience,
    RunConfig,
    Source,
    Task,
    Training,
    World,
    ZeroStage,
)
from finetune_trainer.contract.scratch_files import (
    CHECKPOINT_FILE,
    CHECKPOINT_REQUEST_FILE,
    PROGRESS_FILE,
    STOP_FILE,
    rank_beat_file,
    rank_exit_file,
    rank_status_file,
)
from finetune_trainer.contract.tasks import TASKS, TaskEntry

__all__ = [
    "BEFORE_TRAINING",
    "CHECKPOINT_FILE",
    "CHECKPOINT_REQUEST_FILE",
    "CLASS_OF_EXIT_CODE",
    "CONTRACT_VERSION",
    "ENV_AGENT_PORT",
    "ENV_CLAIMS",
    "ENV_CPUS",
    "ENV_GRACE",
    "ENV_POD_INDEX",
    "ENV_POD_IP",
    "ENV_POD_UID",
    "ENV_RENDEZVOUS",
    "ENV_RUN_CONFIG",
    "ENV_SCRATCH",
    "ENV_TERMINATION_LOG",
    "ENV_WORKSPACE",
    "MAX_LOG_LINES",
    "MAX_REQUEST_CHARACTERS",
    "MAX_STATUS_BYTES",
    "MAX_TERMINATION_MESSAGE_BYTES",
    "METHODS",
    "NEWER_CONTRACT",
    "NONCE_PARAMETER",
    "PROGRESS_FILE",
    "REQUEST_PARAMETER",
    "STATUS_PATH",
    "STOP_FILE",
    "TASKS",
    "Answer",
    "CheckpointReport",
    "Checkpointing",
    "Columns",
    "Dataset",
    "ExitCode",
    "FailureClass",
    "Lora",
    "Message",
    "MethodEntry",
    "Metric",
    "Patience",
    "Phase",
    "PodStatus",
    "Progress",
    "RankExit",
    "RankStatus",
    "Result",
    "RunConfig",
    "Source",
    "Task",
    "TaskEntry",
    "TerminationMessage",
    "Training",
    "World",
    "ZeroStage",
    "added",
    "class_of",
    "rank_beat_file",
    "rank_exit_file",
    "rank_status_file",
    "version_needed",
]
