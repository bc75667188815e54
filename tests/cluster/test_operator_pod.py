"""Tests of the operator as a pod of the chart: a job trains under it and survives every change of the release.

FINETUNE_OPERATOR_IMAGE names an image that the nodes have; test-images.sh builds one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import CRD, FROM_KUBECTL, OWNER, TEST_IMAGE
from cluster.operator_pod import OperatorPod, operator_values
from cluster.test_training import assert_nothing_left, conditions, until
from support.kubectl import Kubectl
from support.manifests import TINY_CLASSIFIER, manifest
from support.releases import Releases
from trainer import tiny

pytestmark = pytest.mark.timeout(600)
JOB = "tiny"
SECONDS_TO_END = 15.0
"""Half of the pod's grace period, which an operator that missed the signal would use up."""


@pytest.fixture
def job(kubectl: Kubectl, workspace: Path) -> dict[str, Any]:
    """Return a job that trains for some seconds on one node, with its model and data in the workspace."""
    for file in tiny.save_model(workspace / "models" / "bert", tiny.SEQUENCE, tiny.bert()).iterdir():
        file.chmod(0o644)  # safetensors creates files that only their owner can read
    tiny.labelled_texts(workspace / "data" / "rows.jsonl", 60)
    return manifest(
        JOB,
        **{
            "metadata.namespace": kubectl.namespace,
            **TINY_CLASSIFIER,
            "spec.training": {"maxSteps": 500, "globalBatchSize": 8, "sequenceLength": 32},
            "spec.resources": {"gpusPerNode": 0, "cpu": "1", "memory": "3Gi", "sharedMemory": "64Mi"},
        },
    )


def test_an_operator_that_is_deleted_while_it_starts_ends_in_seconds(
    releases: Releases, kubectl: Kubectl, crd_of_kubectl: None
) -> None:
    releases.install("early", operator_values(TEST_IMAGE), *FROM_KUBECTL)
    selector = ("-l", "app.kubernetes.io/instance=early")
    kubectl.run("wait", "pods", *selector, "--for=create", "--timeout=60s")
    kubectl.run("wait", "pods", *selector, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    (pod,) = kubectl.get("pods", *selector)
    began = time.monotonic()
    kubectl.run("delete", "pod", pod["metadata"]["name"], "--timeout=60s")
    assert time.monotonic() - began < SECONDS_TO_END


def test_a_job_outlives_every_change_of_the_release_that_it_trained_under(
    releases: Releases, kubectl: Kubectl, workspace: Path, job: dict[str, Any], crd_of_kubectl: None
) -> None:
    values = operator_values(TEST_IMAGE)
    releases.install("first", values, *FROM_KUBECTL)
    first = OperatorPod(kubectl, "first")
    kubectl.apply(job)
    until(kubectl, JOB, lambda s: conditions(s).get("WorldReady") == "True")  # only the agents can report this
    assert_pods_are_shut_off(kubectl, first)
    complete = until(kubectl, JOB, lambda s: s.get("phase") == "Complete")
    assert conditions(complete)["WorldReady"] == "False", "its pods have ended"
    assert complete["run"]["image"] == TEST_IMAGE

    finished, pods = kubectl.get("ftj", JOB), pods_of(kubectl)
    repository, _ = TEST_IMAGE.rsplit(":", 1)
    releases.upgrade("first", operator_values(f"{repository}:another"))
    upgraded = OperatorPod(kubectl, "first")
    assert upgraded.uid != first.uid, "another configuration is read by another pod"
    upgraded.has_reconciled(JOB, "Complete")
    assert (kubectl.get("ftj", JOB), pods_of(kubectl)) == (finished, pods)

    releases.rollback("first")
    OperatorPod(kubectl, "first").has_reconciled(JOB, "Complete")
    assert (kubectl.get("ftj", JOB), pods_of(kubectl)) == (finished, pods)

    releases.uninstall("first")
    assert releases.objects("first") == []
    assert (kubectl.get("ftj", JOB), pods_of(kubectl)) == (finished, pods)
    assert list((workspace / complete["result"]["path"]).glob("*.safetensors"))
    kubectl.run("delete", "ftj", JOB, "--timeout=30s")
    assert_nothing_left(kubectl, JOB)
    assert kubectl.get("networkpolicies", "-l", f"finetune.dev/job={JOB}") == []
    assert list((workspace / complete["result"]["path"]).glob("*.safetensors")), "results belong to the user"

    releases.install("second", values, "--take-ownership")
    assert kubectl.get(CRD)["metadata"]["annotations"][f"{OWNER}name"] == "second"
    kubectl.apply({**job, "spec": {**job["spec"], "model": {"uri": "file:///srv/model"}}})
    kubectl.run("wait", f"ftj/{JOB}", "--for=condition=Stalled", "--timeout=90s")


def assert_pods_are_shut_off(kubectl: Kubectl, operator: OperatorPod) -> None:
    """Check that the job's own NetworkPolicy selects its pods and allows connections from the operator."""
    (policy,) = kubectl.get("networkpolicies", "-l", f"finetune.dev/job={JOB}")
    (owner,) = policy["metadata"]["ownerReferences"]
    assert owner["uid"] == kubectl.get("ftj", JOB)["metadata"]["uid"]
    assert selected(kubectl, policy["spec"]["podSelector"]) == pods_of(kubectl) != set()
    among_themselves, to_the_agent = policy["spec"]["ingress"]
    assert [selected(kubectl, peer["podSelector"]) for peer in among_themselves["from"]] == [pods_of(kubectl)]
    (peer,) = to_the_agent["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": kubectl.namespace}
    assert selected(kubectl, peer["podSelector"]) == {operator.uid}


def selected(kubectl: Kubectl, selector: dict[str, Any]) -> set[str]:
    assert list(selector) == ["matchLabels"]
    labels = ",".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
    return {pod["metadata"]["uid"] for pod in kubectl.get("pods", "-l", labels)}


def pods_of(kubectl: Kubectl) -> set[str]:
    """Return the UIDs of all pods of the job."""
    return {pod["metadata"]["uid"] for pod in kubectl.get("pods", "-l", f"finetune.dev/job={JOB}")}
