"""The benchmark's load: what the floor has in common with a FineTuneJob, and what a finished job needs."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from operator_benchmark import objects

from finetune_operator.api.parse import parse
from finetune_operator.core.decide import Decision, decide
from finetune_operator.core.observed.views import Observed, PodView
from finetune_operator.core.run.retrain import next_run
from finetune_operator.manifests.children import children

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made() -> dict[str, Any]:
    """Return a FineTuneJob as the API server returns it."""
    manifest = objects.finetunejob("a", "n")
    manifest["metadata"].update({"uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": "1"})
    return manifest


def template(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (job,) = [manifest for manifest in manifests if manifest["kind"] == "Job"]
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def without_names(spec: Any) -> Any:
    """Replace values that begin with the job's name, because they contain the UID."""
    if isinstance(spec, dict):
        return {key: without_names(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [without_names(value) for value in spec]
    return "its name" if isinstance(spec, str) and spec.startswith("a-") else spec


def test_the_floor_has_the_pods_of_the_operator() -> None:
    job = parse(made())
    run = next_run(job, 1, objects.SETTINGS, "0", NOW)
    ours = [manifest for _, manifest in children(job, run, objects.SETTINGS)]
    assert without_names(template(ours)) == without_names(template(objects.floor("a", "n", "all pods")))


@pytest.mark.parametrize(("names", "keys"), [("all pods", 1), ("rank 0", 2)])
def test_the_floor_s_service_names_all_pods_or_one(names: objects.Names, keys: int) -> None:
    service, job = objects.floor("a", "n", names)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert len(service["spec"]["selector"]) == keys
    assert "ownerReferences" not in job["metadata"]


def test_nothing_is_left_to_do_for_a_finished_job() -> None:
    job = parse(objects.finished(made()))
    assert job.status.phase == "Complete"
    assert decide(Observed(job, NOW, "0"), objects.SETTINGS) == Decision(job.status)


def test_a_failed_pod_is_one_to_the_operator_and_the_one_that_ran_is_not_changed() -> None:
    metadata = {"name": "p", "uid": "u", "labels": {}}
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    status = {"phase": "Running", "containerStatuses": [{"name": "trainer", "ready": True, "state": state}]}
    pod = {"metadata": metadata, "spec": {}, "status": status}
    view = PodView.of(objects.failed(pod))
    assert (view.failed, view.exit_code, view.running) == (True, 1, False)
    assert PodView.of(pod).running
