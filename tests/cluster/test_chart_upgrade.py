"""Tests an upgrade from a stored release to the current chart: a finished job stays as the old release left it.

This test installs an older definition for some seconds, and restores the current one at the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.conftest import CRD, FROM_KUBECTL, ROOT, TEST_IMAGE
from cluster.operator_pod import OperatorPod, operator_values
from support.helm import VERSION
from support.kubectl import Kubectl
from support.manifests import ABSENT, changed
from support.releases import Releases

from finetune_operator.api.v1alpha1 import FineTuneJobStatus

STORED = Path(__file__).parent / "releases" / "0.0.1"
CHART = STORED / "finetune-operator"
STOPPED: dict[str, Any] = {"scope": "namespaced", "replicas": 0}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def older(releases: Releases, kubectl: Kubectl, crd_of_kubectl: None) -> Iterator[Releases]:
    """Install release 0.0.1 as `old`, with its definition and without a running operator."""
    try:
        releases.install("old", STOPPED, *FROM_KUBECTL, chart=CHART)
        until_served(kubectl, claim_by_default="finetune")
        until_served(kubectl, claim_by_default="finetune")
        yield releases
    finally:
        kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
        until_served(kubectl, claim_by_default=None)


def until_served(kubectl: Kubectl, claim_by_default: str | None) -> None:
    """Wait until the API server uses the current definition: only the older one has a default claim."""
    job = json.dumps({**stored_job(), "metadata": {"name": "probe"}})
    deadline = time.monotonic() + 30
    while True:
        said = kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=job).stdout
        if json.loads(said)["spec"]["storage"].get("claimName") == claim_by_default:
            return
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def stored_job() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((STORED / "finished.yaml").read_text())
    return job


def versions(releases: Releases, name: str) -> tuple[str, str]:
    """Return the chart versions of the definition and of the Deployment."""
    objects = releases.kubectl.get(CRD), releases.deployment(name)
    of_the_crd, of_the_deployment = (found["metadata"]["labels"]["helm.sh/chart"] for found in objects)
    return of_the_crd, of_the_deployment


def without_conditions(status: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key != "conditions"}


def is_kept(before: Any, after: Any) -> bool:
    """Return whether every field has kept its value; additional fields are allowed."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(name in after and is_kept(value, after[name]) for name, value in before.items())
    return bool(before == after)


def read_with_defaults(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status that an older definition stored, with the defaults of the current one."""
    return FineTuneJobStatus.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)


def test_an_upgrade_leaves_a_finished_job_of_an_older_release_as_it_is(older: Releases, kubectl: Kubectl) -> None:
    values = operator_values(TEST_IMAGE)
    kubectl.apply(changed(stored_job(), {"status": ABSENT}))
    kubectl.run("apply", "--server-side", "--subresource=status", "-f", "-", stdin=json.dumps(stored_job()))
    before = kubectl.get("ftj", "finished")
    assert before["status"] == stored_job()["status"]
    assert versions(older, "old") == ("finetune-operator-0.0.1",) * 2

    older.upgrade("old", values)
    assert versions(older, "old") == (f"finetune-operator-{VERSION}",) * 2
    until_served(kubectl, claim_by_default=None)
    operator = OperatorPod(kubectl, "old")
    operator.has_reconciled("finished", "Complete")
    after = kubectl.get("ftj", "finished")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert is_kept(before["spec"], after["spec"]), "later fields have their defaults"
    assert without_conditions(after["status"]) == without_conditions(read_with_defaults(before["status"]))
    known = {c["type"]: c for c in after["status"]["conditions"]}
    assert [known.pop(c["type"]) for c in before["status"]["conditions"]] == before["status"]["conditions"]
    assert set(known) == {"Suspended"}, "a condition that 0.0.1 did not know is all that is written"
    assert [pod["metadata"]["uid"] for pod in kubectl.get("pods")] == [operator.uid]

    older.rollback("old")
    assert versions(older, "old") == ("finetune-operator-0.0.1",) * 2
    until_served(kubectl, claim_by_default="finetune")
    older.uninstall("old")
    assert kubectl.get("ftj", "finished")["spec"] == before["spec"]
    kubectl.run("delete", "ftj", "finished", "--timeout=20s")
