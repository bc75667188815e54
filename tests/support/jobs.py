"""Manifests of built-in kinds for tests: an Indexed Job and the objects that its pods need."""

from __future__ import annotations

from typing import Any


def job(
    name: str,
    namespace: str,
    *command: str,
    pods: int = 2,
    image: str = "none",
    grace: int = 30,
    rules: list[dict[str, Any]] | None = None,
    **pod_spec: Any,
) -> dict[str, Any]:
    """Return an Indexed Job with `backoffLimit: 0`, whose pods run the command.

    The pods have the subdomain of the headless Service. With `rules` the Job has a podFailurePolicy, and a pod counts
    as failed only after it has ended.
    """
    policy = {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}} if rules else {}
    container = {"name": "main", "image": image, "command": list(command), **pod_spec.pop("container", {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": 0,
            **policy,
            "template": {
                "metadata": {"labels": {"example": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "subdomain": name,
                    "terminationGracePeriodSeconds": grace,
                    "containers": [container],
                    **pod_spec,
                },
            },
        },
    }


def config_map(name: str, namespace: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    """Return a ConfigMap."""
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def owned_by(owner: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return the child with an owner reference to the owner."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {**child, "metadata": {**child["metadata"], "ownerReferences": [reference]}}


def headless_service(name: str, namespace: str, selector: dict[str, str]) -> dict[str, Any]:
    """Return a headless Service, which gives the pods DNS names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector, "ports": [{"port": 1}]},
    }
