"""The manifests of the load: FineTuneJobs for fake nodes, and the floor, which is their pods without an operator."""

from __future__ import annotations

import copy
import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal

from finetune_operator import constants
from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.core.observed.views import Observed
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_operator.core.status import written as status
from finetune_operator.core.times import to_text
from finetune_operator.manifests.children import child_metadata, service
from finetune_operator.manifests.job import job_manifest
from finetune_operator.protocol import Object
from finetune_trainer.contract import Result
from operator_benchmark.process import IMAGE

Names = Literal["all pods", "rank 0"]

PODS = 4
"""The number of pods of each job."""
SETTINGS = Settings(image=IMAGE)


def finetunejob(name: str, namespace: str) -> Object:
    """Return a FineTuneJob with four small pods for fake nodes."""
    return {
        "apiVersion": constants.API_VERSION,
        "kind": constants.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": "SequenceClassification",
            "model": {"uri": "workspace://models/base"},
            "dataset": {"uri": "workspace://data/train.jsonl", "columns": {"text": "text", "label": "label"}},
            "resources": {"nodes": PODS, "gpusPerNode": 1, "cpu": "1", "memory": "4Gi"},
            "podTemplate": {
                "nodeSelector": {"type": "kwok"},
                "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            },
        },
    }


def floor(name: str, namespace: str, names: Names) -> list[Object]:
    """Return the objects that replace an operator: a headless Service, and an Indexed Job with a FineTuneJob's pods.

    `names` selects the pods to which the Service gives a name.
    """
    job = _parsed(name, namespace)
    run = next_run(job, 1, SETTINGS, "0" * 16, datetime.now(UTC))
    metadata = child_metadata(job, run)
    del metadata["ownerReferences"]
    named = service(metadata, SETTINGS)
    if names == "all pods":
        named["spec"]["selector"].pop(constants.LABEL_INDEX)
    return [named, job_manifest(metadata, job.spec, run, SETTINGS, policy=None)]


def _parsed(name: str, namespace: str) -> FineTuneJob:
    manifest = finetunejob(name, namespace)
    manifest["metadata"]["uid"] = str(uuid.uuid4())
    return parse(manifest)


def finished(manifest: Object) -> Object:
    """Return a FineTuneJob that has a UID, with the status of one that has trained for an hour."""
    job, now = parse(manifest), datetime.now(UTC)
    began = now - timedelta(hours=1)
    run = next_run(job, 1, SETTINGS, "0" * 16, began)
    run = run.model_copy(update={"job_uid": str(uuid.uuid4()), "completion_time": to_text(now)})
    result = Result(
        path=f"{job.metadata.namespace}/{job.metadata.name}/runs/1/output",
        digest="0" * 64,
        base_metrics={"accuracy": 0.1, "f1": 0.1},
        metrics={"accuracy": 0.9, "f1": 0.9},
        step=1000,
        trainable_parameters=1_000_000,
        parameters=100_000_000,
    )
    ended = ledger.entered(job.status, ledger.success(run, result.step, now))
    ended = status.with_result(ended.model_copy(update={"run": run}), result)
    ended = status.as_complete(Observed(job, now, run.nonce), ended, run)
    return {**manifest, "status": ended.model_dump(mode="json", by_alias=True, exclude_none=True)}


def failed(pod: Object) -> Object:
    """Return a running pod as it is after its container has ended with exit code 1."""
    pod, now = copy.deepcopy(pod), to_text(datetime.now(UTC))
    container = pod["status"]["containerStatuses"][0]
    started = container["state"]["running"]["startedAt"]
    ended = {"exitCode": 1, "reason": "Error", "startedAt": started, "finishedAt": now}
    container.update({"ready": False, "started": False, "state": {"terminated": ended}})
    pod["status"]["phase"] = "Failed"
    return pod


def storage(namespace: str) -> list[Object]:
    """Return a volume and a claim bound to it. No fake node mounts it, but the scheduler requires a bound claim."""
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeMode": "Filesystem"}
    name, size = volume_name(namespace), {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {**spec, "capacity": size, "hostPath": {"path": f"/tmp/{name}"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": constants.DEFAULT_CLAIM, "namespace": namespace},
        "spec": {**spec, "volumeName": name, "resources": {"requests": size}},
    }
    return [volume, claim]


def volume_name(namespace: str) -> str:
    """Return the name of the namespace's volume."""
    return f"{namespace}-workspace"
