"""The API server's checks and defaults for built-in kinds, limited to those that matter to an operator.

FineTuneJobs are not checked here, but by the `admit` function of the in-memory cluster.
"""

from __future__ import annotations

import re

from finetune_operator.protocol import FINETUNEJOBS, JOBS, PODS, SERVICES, InvalidError, Object, Resource

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
MAX_SUBDOMAIN = 253
MAX_LABEL = 63

WITH_GENERATION = frozenset({FINETUNEJOBS, JOBS, PODS})
WITHOUT_STATUS = frozenset({"ConfigMap", "Secret", "Event", "Lease"})


def has_status(resource: Resource) -> bool:
    """Return whether the kind has a status, which only `put_status` writes."""
    return resource.kind not in WITHOUT_STATUS


def check(resource: Resource, obj: Object) -> None:
    """Check an object by the rules for its kind.

    Raises InvalidError.
    """
    if (obj.get("apiVersion"), obj.get("kind")) != (resource.api_version, resource.kind):
        raise _invalid(obj, "kind", f"must be {resource.kind} of {resource.api_version}")
    _check_metadata(resource, obj)
    if resource == JOBS:
        _check_job(obj)
    if resource == PODS:
        _check_pod_spec(obj, obj.get("spec", {}), "spec")


def fill_in(resource: Resource, obj: Object) -> None:
    """Fill in the defaults that other code relies on."""
    if resource == JOBS:
        obj["spec"] = {"parallelism": 1, "backoffLimit": 6, "suspend": False, **obj["spec"]}
    if resource == PODS:
        obj["spec"] = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, **obj["spec"]}
        obj["status"] = {"phase": "Pending"}


def _invalid(obj: Object, field: str, why: str) -> InvalidError:
    name = obj.get("metadata", {}).get("name")
    return InvalidError(422, "Invalid", f'{obj.get("kind")} "{name}" is invalid: {field}: {why}')


def _check_metadata(resource: Resource, obj: Object) -> None:
    meta = obj["metadata"]
    name = meta["name"]
    pattern, limit = (DNS_LABEL, MAX_LABEL) if resource == SERVICES else (SUBDOMAIN, MAX_SUBDOMAIN)
    if not pattern.fullmatch(name) or len(name) > limit:
        raise _invalid(obj, "metadata.name", f'Invalid value: "{name}"')
    _check_labels(obj, meta, "metadata.labels")


def _check_labels(obj: Object, meta: Object, path: str) -> None:
    for key, value in (meta.get("labels") or {}).items():
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value) or len(value) > MAX_LABEL:
            raise _invalid(obj, path, f'Invalid value: "{key}: {value}"')


def _check_job(job: Object) -> None:
    spec = job.get("spec", {})
    if spec.get("completionMode") != "Indexed" or "completions" not in spec:
        raise _invalid(job, "spec.completionMode", "the in-memory cluster runs Indexed Jobs with spec.completions only")
    # The API server checks these labels when the Job is created, not when the Job controller creates its pods.
    _check_labels(job, spec.get("template", {}).get("metadata", {}), "spec.template.labels")
    template = spec.get("template", {}).get("spec", {})
    if template.get("restartPolicy") not in ("Never", "OnFailure"):
        raise _invalid(job, "spec.template.spec.restartPolicy", 'supported values: "OnFailure", "Never"')
    _check_pod_spec(job, template, "spec.template.spec")


def _check_pod_spec(obj: Object, spec: Object, path: str) -> None:
    containers = spec.get("containers") or []
    if not containers:
        raise _invalid(obj, f"{path}.containers", "Required value")
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for number, container in enumerate(containers):
        for mount in container.get("volumeMounts") or []:
            if mount.get("name") not in volumes:
                where = f"{path}.containers[{number}].volumeMounts"
                raise _invalid(obj, where, f'Not found: "{mount.get("name")}"')
