"""The names that users and programs see: API group, labels, phases, condition types, and reasons with messages."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SINGULAR = "finetunejob"
SHORT_NAME = "ftj"

MANAGER = "finetune-operator"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB = f"{GROUP}/job"
LABEL_RUN = f"{GROUP}/run"
LABEL_ATTEMPT = f"{GROUP}/attempt"

LABEL_POLICY = f"{GROUP}/network-policy"
"""The pod label whose value is the name of the one NetworkPolicy that selects the pod."""

LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""The label that the Job controller sets on each pod: its completion index."""

MAX_NAME_LENGTH = 40
"""The maximum length of a FineTuneJob's name.

A pod's host name `<job>-<5 hex>-<run>-<attempt>-<index>` may have at most 63 characters.
"""

DEFAULT_CLAIM = "finetune"
"""The name of the claim for jobs without `storage.claimName`, unless the operator's configuration sets another one."""
CONTAINER = "trainer"
LOOK_SECONDS = 600
"""The time limit of the Job that reads a result from the workspace, and the time from its end to its deletion."""
WORKSPACE_PATH = "/workspace"
CLAIMS_PATH = "/claims"
SCRATCH_PATH = "/scratch"
CONFIG_PATH = "/etc/finetune"
SHARED_MEMORY_PATH = "/dev/shm"
VOLUMES = ("workspace", "config", "scratch", "shared-memory")
"""The names of the volumes of every pod. The claims of pvc:// URIs add claim-0, claim-1 and so on."""
MOUNT_PATHS = (WORKSPACE_PATH, CLAIMS_PATH, SCRATCH_PATH, CONFIG_PATH, SHARED_MEMORY_PATH)
RUN_CONFIG_KEY = "run.json"
SPEC_KEY = "spec.json"
HUB_TOKEN_KEY = "HF_TOKEN"
"""The key that is read from the Secret `model.secretName`."""


class Phase(StrEnum):
    """A summary of a job's state for people; programs read the conditions."""

    PENDING = "Pending"
    STARTING = "Starting"
    TRAINING = "Training"
    EXPORTING = "Exporting"
    RESTARTING = "Restarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """The condition types of a FineTuneJob.

    Ready, Reconciling and Stalled are defined by kstatus; the others report the state of a run.
    """

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    WORLD_READY = "WorldReady"
    TRAINING = "Training"
    TRAINING_HEALTHY = "TrainingHealthy"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Reason(NamedTuple):
    """A condition's reason and the template of its message."""

    name: str
    message: str


PENDING = Reason("Pending", "No pod is scheduled yet{detail}")
VOLUME_ATTACHED_ELSEWHERE = Reason(
    "VolumeAttachedElsewhere",
    "Attempt {attempt} of run {run} waits: claim {claim} is {modes}, and pod {pod} of an earlier attempt holds it on "
    "node {node}; it goes on when that pod is gone (if the node is lost for good, delete the pod with --force)",
)
UNSCHEDULABLE = Reason("Unschedulable", "{running} of {pods} pods run; {detail}")
PODS_REFUSED = Reason("PodsRefused", "{running} of {pods} pods run; {detail}")
QUEUED = Reason("Queued", "{running} of {pods} pods run; {detail}")
IMAGE_NOT_PULLED = Reason("ImageNotPulled", "{running} of {pods} pods run; {detail}")
CONTAINER_NOT_CREATED = Reason("ContainerNotCreated", "{running} of {pods} pods run; {detail}")
STARTING = Reason("Starting", "{running} of {pods} pods run{detail}")
PODS_RUNNING = Reason("PodsRunning", "All {pods} pods run; {ready} of {world} ranks have reported{detail}")
TRAINING = Reason("Training", "Run {run} trains")
EXPORTING = Reason("Exporting", "Run {run} saves and checks its result")
READING_RESULT = Reason(
    "ReadingResult",
    "All pods of attempt {attempt} of run {run} ended well, but rank 0's pod is gone; a small pod without GPUs reads "
    "the result from the workspace",
)
WORLD_READY = Reason("AllRanksAttested", "All {world} ranks attested world size {world} and configuration {digest}")
HEALTHY = Reason("Healthy", "The weights change with every step{detail}")
DIVERGING = Reason(
    "Diverging", "{row} steps in a row, {all} in all, were skipped because a loss or a gradient was not finite"
)
DIVERGED = Reason("Diverged", "Attempt {attempt} of run {run} diverged: {detail}")
CHECKPOINT_FAILING = Reason("CheckpointFailing", "The training goes on, but {newest}: {detail}")
STRAGGLING = Reason("Straggling", "Rank {rank}{where} needs {times} times as long for its own work as the median rank")
HUNG = Reason("Hung", "Attempt {attempt} of run {run} hung: {detail}")
NOT_TRAINING = Reason("NotTraining", "No steps are made now")
RESTARTING = Reason(
    "Restarting", "Attempt {attempt} of run {run} starts{when}, from {start}; the one before ended as {detail}"
)
SUSPENDING = Reason("Suspending", "Run {run} is being stopped; {pods} of its pods are still there")
SUSPENDED = Reason("Suspended", "spec.suspend is true; {detail}")
RESUMED = Reason("Resumed", "The job is no longer suspended; attempt {attempt} of run {run} starts")
"""The reason of an event only: after the event, the conditions report the state of the attempt."""
MADE_AGAIN = Reason(
    "MadeAgain", "{kind} {name} of attempt {attempt} of run {run} was deleted while it was needed, and is made again"
)
NOT_MADE_AGAIN = Reason(
    "NotMadeAgain",
    "{kind} {name} of attempt {attempt} of run {run} was deleted, and the same one cannot be made again, because the "
    "spec or the operator's configuration has changed since; the attempt goes on, because all its pods have read it",
)
"""MADE_AGAIN and NOT_MADE_AGAIN are reasons of events only, not of conditions."""
COMPLETE = Reason("Complete", "Run {run} is complete{outcome}; the model is at {path}")
FAILED = Reason("Failed", "Run {run} failed: {detail}")
INVALID_SPEC = Reason("InvalidSpec", "{detail}")
INVALID_STATUS = Reason("InvalidStatus", "{detail}")
NAME_CONFLICT = Reason("NameConflict", "{kind} {name} exists and is not ours; delete it or rename the FineTuneJob")
VOLUME_NOT_SHARED = Reason(
    "VolumeNotShared",
    "{field}: claim {claim} is {modes}, which {nodes} nodes cannot mount together; "
    "use a {wanted} claim or resources.nodes: 1",
)
CLAIM_NOT_FOUND = Reason(
    "ClaimNotFound",
    "{field}: there is no claim {claim} in namespace {namespace}; create it{or_another}, and the job goes on by itself",
)
CLAIM_BEING_DELETED = Reason(
    "ClaimBeingDeleted",
    "{field}: claim {claim} in namespace {namespace} is being deleted; create it anew when it is gone{or_another}, and "
    "the job goes on by itself",
)
CLAIM_LOST = Reason(
    "ClaimLost",
    "{field}: claim {claim} in namespace {namespace} has lost its volume; delete it and create it anew{or_another}, "
    "and the job goes on by itself",
)
REFUSED = Reason("Refused", "The API server refused to {action}: {detail}")
NOT_YET = Reason("NotYet", "")
