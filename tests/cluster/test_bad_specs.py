"""Jobs that no schema has checked, stored in a real API server: each gets its word, and a right one beside its model.

This test takes the schema of the spec out of the definition for some seconds, and puts it back at the end.
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
    """A namespace for jobs of any spec, in which no pod can be made; the jobs are gone when the schema is back."""
    with new_namespace() as kubectl, any_spec(kubectl):
        kubectl.run("create", "quota", "no-pods", "--hard=pods=0")
        eventually(lambda: "hard" in kubectl.get("quota", "no-pods")["status"])
        yield kubectl
        kubectl.run("delete", "ftj", "--all", "--timeout=60s")


@contextlib.contextmanager
def any_spec(kubectl: Kubectl) -> Iterator[None]:
    """In the block the API server stores whatever calls itself a FineTuneJob."""
    before = kubectl.get(CRD, "--show-managed-fields")
    schema = before["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = {**schema["properties"], "spec": {"x-kubernetes-preserve-unknown-fields": True}}
    try:
        patch(kubectl, SCHEMA, {"type": "object", "properties": fields})
        eventually(lambda: is_accepted(kubectl, spec=[]))
        yield
    finally:
        patch(kubectl, SCHEMA, schema)
        # What was put back would else be the patch's, and stay when a later version of the definition has it no more.
        patch(kubectl, "/metadata/managedFields", before["metadata"]["managedFields"])
        eventually(lambda: not is_accepted(kubectl, spec=[]))


def patch(kubectl: Kubectl, path: str, value: Any) -> None:
    """A field of the definition."""
    kubectl.run("patch", CRD, "--type=json", "-p", json.dumps([{"op": "replace", "path": path, "value": value}]))


def is_accepted(kubectl: Kubectl, spec: Any) -> bool:
    """Whether the API server would store a job with that."""
    job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "probe"}, "spec": spec}
    arguments = ("create", "--dry-run=server", "--validate=false", "-f", "-")
    return kubectl.run(*arguments, stdin=json.dumps(job), check=False).returncode == 0


def store(kubectl: Kubectl) -> None:
    """The same objects in every run: mutated ones, that JSON can say and kubectl can read."""
    raw = [found for found in drawn(unfitting(), STORED * 2 / OBJECTS) if is_written(found)][:STORED]
    items = [{**stored(job, ""), "metadata": {"name": f"fuzzed-{number}"}} for number, job in enumerate(raw)]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kubectl.run("create", "--validate=false", "-f", "-", stdin=manifest, check=False)


def untold(kubectl: Kubectl) -> list[Object]:
    """Jobs whose status does not say yet what is wrong, or how far they are."""
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
