"""Names that others see: the API group, labels, condition types, phases, and each reason with its message."""

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
"""Of pods: the one NetworkPolicy that selects them."""

LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""Set by the Job controller on its pods."""

MAX_NAME_LENGTH = 40
"""Of a FineTuneJob: `<job>-<5 hex>-<run>-<attempt>-<index>` is a host name and so has at most 63 characters."""

DEFAULT_CLAIM = "finetune"
"""The claim of jobs that name none, unless the operator's configuration names another."""
CONTAINER = "trainer"
LOOK_SECONDS = 600
"""After which the Job that reads a result from the workspace gives up; as long after its end it is deleted."""
WORKSPACE_PATH = "/workspace"
CLAIMS_PATH = "/claims"
SCRATCH_PATH = "/scratch"
CONFIG_PATH = "/etc/finetune"
SHARED_MEMORY_PATH = "/dev/shm"
VOLUMES = ("workspace", "config", "scratch", "shared-memory")
"""Names of the volumes of every pod; those of the claims that URIs name are claim-0, claim-1 and so on."""
MOUNT_PATHS = (WORKSPACE_PATH, CLAIMS_PATH, SCRATCH_PATH, CONFIG_PATH, SHARED_MEMORY_PATH)
RUN_CONFIG_KEY = "run.json"
SPEC_KEY = "spec.json"
HUB_TOKEN_KEY = "HF_TOKEN"
"""Key of the secret that `model.secretName` names."""


class Phase(StrEnum):
    """For people; programs read the conditions."""

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
    """Ready, Reconciling and Stalled are kstatus's; the others tell where a run is."""

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
"""Of an event alone: the conditions then say how far the attempt is."""
MADE_AGAIN = Reason(
    "MadeAgain", "{kind} {name} of attempt {attempt} of run {run} was deleted while it was needed, and is made again"
)
NOT_MADE_AGAIN = Reason(
    "NotMadeAgain",
    "{kind} {name} of attempt {attempt} of run {run} was deleted, and the same one cannot be made again, because the "
    "spec or the operator's configuration has changed since; the attempt goes on, because all its pods have read it",
)
"""Both are reasons of events alone."""
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
