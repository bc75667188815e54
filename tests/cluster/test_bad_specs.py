"""Tests with unchecked jobs in a real API server: each gets its status, and a valid job completes beside them.

This test removes the schema of the spec from the definition for some seconds, and restores it at the end.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import CRD, new_namespace, new_workspace
from cluster.faults import ONE_NODE, classes, eventually, ground_in, operating, true_conditions
from cluster.test_fuzzed_specs import is_written
from fuzz.amount import OBJECTS, drawn
from fuzz.mutations import Object, stored, unfitting
from fuzz.test_operator import expected_reason
from support.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)
STORED = 100
SECONDS = 60.0
HEALTHY = "healthy"
SCHEMA = "/spec/versions/0/schema/openAPIV3Schema"


@pytest.fixture
def unchecked(crd: None) -> Iterator[Kubectl]:
    """Provide a namespace for jobs with any spec, in which no pod can be created.

    Its jobs are deleted before the schema is restored.
    """
    with new_namespace() as kubectl, any_spec(kubectl):
        kubectl.run("create", "quota", "no-pods", "--hard=pods=0")
        eventually(lambda: "hard" in kubectl.get("quota", "no-pods")["status"])
        yield kubectl
        kubectl.run("delete", "ftj", "--all", "--timeout=60s")


@contextlib.contextmanager
def any_spec(kubectl: Kubectl) -> Iterator[None]:
    """Let the API server store every object of kind FineTuneJob until the block ends."""
    before = kubectl.get(CRD, "--show-managed-fields")
    schema = before["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = {**schema["properties"], "spec": {"x-kubernetes-preserve-unknown-fields": True}}
    try:
        patch(kubectl, SCHEMA, {"type": "object", "properties": fields})
        eventually(lambda: is_accepted(kubectl, spec=[]))
        yield
    finally:
        patch(kubectl, SCHEMA, schema)
        # Otherwise the restored fields would belong to the patch, and would stay when a later definition drops them.
        patch(kubectl, "/metadata/managedFields", before["metadata"]["managedFields"])
        eventually(lambda: not is_accepted(kubectl, spec=[]))


def patch(kubectl: Kubectl, path: str, value: Any) -> None:
    """Replace a field of the definition."""
    kubectl.run("patch", CRD, "--type=json", "-p", json.dumps([{"op": "replace", "path": path, "value": value}]))


def is_accepted(kubectl: Kubectl, spec: Any) -> bool:
    """Return whether the API server would store a job with this spec."""
    job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "probe"}, "spec": spec}
    arguments = ("create", "--dry-run=server", "--validate=false", "-f", "-")
    return kubectl.run(*arguments, stdin=json.dumps(job), check=False).returncode == 0


def store(kubectl: Kubectl) -> None:
    """Store mutated jobs that JSON can express and kubectl can read, the same ones in every run."""
    raw = [found for found in drawn(unfitting(), STORED * 2 / OBJECTS) if is_written(found)][:STORED]
    items = [{**stored(job, ""), "metadata": {"name": f"fuzzed-{number}"}} for number, job in enumerate(raw)]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kubectl.run("create", "--validate=false", "-f", "-", stdin=manifest, check=False)


def untold(kubectl: Kubectl) -> list[Object]:
    """Return the jobs whose status does not report an error or progress yet."""
    return [job for job in kubectl.get("ftj") if not has_its_word(job)]


def has_its_word(job: Object) -> bool:
    conditions = {c["type"]: c for c in job["status"].get("conditions", [])}
    if "Ready" not in conditions or not conditions["Ready"]["message"]:
        return False
    is_refused = "Stalled" in true_conditions(job["status"]) and conditions["Stalled"]["reason"] == "InvalidSpec"
    return is_refused == (expected_reason(job) == "InvalidSpec")


def test_stored_jobs_that_no_schema_has_checked_are_told_what_is_wrong_and_stop_no_other(
    unchecked: Kubectl, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        kubectl = stack.enter_context(new_namespace())
        workspace = stack.enter_context(new_workspace(kubectl))
        operator = stack.enter_context(operating([kubectl.namespace, unchecked.namespace], tmp_path))
        ground = ground_in(kubectl, workspace, operator)
        store(unchecked)
        assert len(unchecked.get("ftj")) > STORED * 0.8
        ground.start(HEALTHY, **{"spec.resources": ONE_NODE})
        ground.training(HEALTHY)
        assert classes(ground.completes(HEALTHY, attempt=1, seconds=SECONDS)) == [("Success", False)]
        eventually(lambda: not untold(unchecked), lambda: json.dumps(untold(unchecked))[:4000], SECONDS)
        assert unchecked.get("pods") == []
        ground.leaves_nothing(HEALTHY)
