"""The children of an attempt: ConfigMap, Service, Job, in the order in which they are made."""

from __future__ import annotations

from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, RunStatus
from finetune_operator.build.job import job_manifest
from finetune_operator.core.naming import child_name, labels
from finetune_operator.core.resolve import run_config
from finetune_operator.core.settings import Settings
from finetune_operator.protocol import CONFIGMAPS, JOBS, SERVICES, Resource

Object = dict[str, Any]


def children(job: FineTuneJob, run: RunStatus, settings: Settings) -> list[tuple[Resource, Object]]:
    """The Job comes last: once it exists, the others do."""
    metadata = child_metadata(job, run)
    return [
        (CONFIGMAPS, config_map(metadata, run_config(job, run).to_json())),
        (SERVICES, service(metadata, settings)),
        (JOBS, job_manifest(metadata, job.spec, run, settings)),
    ]


def child_metadata(job: FineTuneJob, run: RunStatus) -> Object:
    """Name, labels and owner of every child: deleting the FineTuneJob deletes them, with the operator down too."""
    owner = job.metadata
    return {
        "name": child_name(owner.name, owner.uid, run.number, run.attempt),
        "namespace": owner.namespace,
        "labels": labels(owner.name, run.number, run.attempt),
        "ownerReferences": [
            {
                "apiVersion": constants.API_VERSION,
                "kind": constants.KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def config_map(metadata: Object, run_json: str) -> Object:
    """run.json, immutable: an attempt's configuration never changes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {constants.RUN_CONFIG_KEY: run_json},
    }


def service(metadata: Object, settings: Settings) -> Object:
    """A headless Service that names rank 0's pod alone: no other name is needed, and the endpoints are written less.

    Not-ready addresses are published, because the others look for rank 0 before anything is ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {constants.LABEL_JOB_NAME: metadata["name"], constants.LABEL_INDEX: "0"},
            "ports": [{"name": "rendezvous", "port": settings.rendezvous_port}],
        },
    }
