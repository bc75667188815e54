"""Builds the Job that reads an attempt's result from the workspace.

It is needed when rank 0's pod is gone before its message was seen, because the operator itself mounts no volume. One
small pod without GPUs runs `finetune_trainer.agent.look`, which writes the last message of rank 0's pod as its own
termination message. It may run wherever the claim can be mounted, so the training's node selector and affinity do not
apply. The training's tolerations do apply, because every node that reaches the volume may have a taint.
"""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, RunStatus
from finetune_operator.core.run.naming import look_name
from finetune_operator.core.settings import Settings
from finetune_operator.manifests.children import child_metadata
from finetune_operator.manifests.job import CONTAINER_SECURITY, TERMINATION_LOG, pod_security
from finetune_operator.manifests.network_policy import network_policy
from finetune_operator.protocol import Object
from finetune_trainer import contract

RETRIES = 2
RESOURCES = {"cpu": "100m", "memory": "256Mi"}
_WORKSPACE, _CONFIG, *_ = constants.VOLUMES


def look_job(job: FineTuneJob, run: RunStatus, settings: Settings) -> Object:
    """Return the manifest for the run's newest attempt."""
    metadata = child_metadata(job, run)
    policy = network_policy(job, settings)
    labels = metadata["labels"] | ({constants.LABEL_POLICY: policy["metadata"]["name"]} if policy else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, "name": look_name(metadata["name"])},
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": constants.LOOK_SECONDS,
            "ttlSecondsAfterFinished": constants.LOOK_SECONDS,
            "template": {
                "metadata": {"labels": {**(job.spec.pod_template.labels or {}), **labels}},
                "spec": _pod(job, run, metadata["name"]),
            },
        },
    }


def _pod(job: FineTuneJob, run: RunStatus, config_map: str) -> Object:
    template = job.spec.pod_template
    environment = {
        contract.ENV_RUN_CONFIG: f"{constants.CONFIG_PATH}/{constants.RUN_CONFIG_KEY}",
        contract.ENV_WORKSPACE: constants.WORKSPACE_PATH,
        contract.ENV_CLAIMS: constants.CLAIMS_PATH,
        contract.ENV_SCRATCH: "/tmp",
        contract.ENV_TERMINATION_LOG: TERMINATION_LOG,
    }
    ours = [{"name": name, "value": value} for name, value in environment.items()]
    given = {"serviceAccountName": template.service_account_name, "tolerations": template.tolerations}
    return {
        **{name: value for name, value in given.items() if value},
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(job.spec),
        "volumes": [
            {"name": _WORKSPACE, "persistentVolumeClaim": {"claimName": run.claim_name}},
            {"name": _CONFIG, "configMap": {"name": config_map}},
        ],
        "containers": [
            {
                "name": constants.CONTAINER,
                "image": run.image,
                "command": ["python3", "-m", "finetune_trainer.agent.look"],
                "env": [v for v in template.env or [] if v.get("name") not in environment] + ours,
                "resources": {"requests": RESOURCES, "limits": RESOURCES},
                "securityContext": CONTAINER_SECURITY,
                "terminationMessagePath": TERMINATION_LOG,
                "volumeMounts": [
                    {"name": _WORKSPACE, "mountPath": constants.WORKSPACE_PATH, "readOnly": True},
                    {"name": _CONFIG, "mountPath": constants.CONFIG_PATH, "readOnly": True},
                ],
            }
        ],
    }
