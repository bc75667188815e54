"""Validates FineTuneJobs and fills in their defaults, as an API server does by the CRD, for the in-memory cluster."""

from __future__ import annotations

from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.protocol import FINETUNEJOBS, InvalidError, Object, Resource


def admit(resource: Resource, manifest: Object) -> Object:
    """Return a FineTuneJob as it is to be stored, and an object of any other kind unchanged.

    Raises InvalidError.
    """
    if resource != FINETUNEJOBS:
        return manifest
    try:
        job = parse(manifest)
    except InvalidManifestError as error:
        name = manifest.get("metadata", {}).get("name")
        raise InvalidError(422, "Invalid", f'FineTuneJob "{name}" is invalid: {error}') from None
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    status = {"observedGeneration": -1, "ledgerDropped": 0, **manifest.get("status", {})}
    return {**manifest, "spec": spec, "status": status}
