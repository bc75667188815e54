"""Builds the children of an attempt: NetworkPolicy, ConfigMap, Service and Job."""

from __future__ import annotations

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob, FineTuneJobSpec, RunStatus
from finetune_operator.core.run.naming import child_name, labels
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.settings import Settings
from finetune_operator.manifests.job import job_manifest
from finetune_operator.manifests.network_policy import network_policy
from finetune_operator.manifests.owner import owner_of
from finetune_operator.protocol import CONFIGMAPS, JOBS, NETWORKPOLICIES, SERVICES, Object, Resource


def children(job: FineTuneJob, run: RunStatus, settings: Settings) -> list[tuple[Resource, Object]]:
    """Return the children of an attempt in the order in which they are created.

    The NetworkPolicy comes first, so that no pod is ever without it. The Job comes last: once it exists, the others
    exist.
    """
    metadata = child_metadata(job, run)
    policy = network_policy(job, settings)
    return [
        *([(NETWORKPOLICIES, policy)] if policy else []),
        (CONFIGMAPS, config_map(metadata, job.spec, run_config(job, run, settings).to_json())),
        (SERVICES, service(metadata, settings)),
        (JOBS, job_manifest(metadata, job.spec, run, settings, policy["metadata"]["name"] if policy else None)),
    ]


def child_metadata(job: FineTuneJob, run: RunStatus) -> Object:
    """Return the name, the labels and the owner of an attempt's children."""
    return {
        "name": child_name(job.metadata.name, job.metadata.uid, run.number, run.attempt),
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, run.number, run.attempt),
        "ownerReferences": [owner_of(job)],
    }


def config_map(metadata: Object, spec: FineTuneJobSpec, run_json: str) -> Object:
    """Return the ConfigMap with run.json; it is immutable, because an attempt's configuration never changes.

    It also has the spec, for the next attempts of a run that goes on while the spec is edited.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {
            constants.RUN_CONFIG_KEY: run_json,
            constants.SPEC_KEY: spec.model_dump_json(by_alias=True, exclude_none=True),
        },
    }


def service(metadata: Object, settings: Settings) -> Object:
    """Return a headless Service that selects rank 0's pod alone.

    No other pod needs a name, and the endpoints are written less often. Not-ready addresses are published, because the
    other pods look up rank 0 before anything is ready.
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
