"""Tests that a container which an admission policy adds to every pod, and which never ends, does not affect a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster.faults import Ground, classes, eventually
from cluster.image import TEST_IMAGE

pytestmark = pytest.mark.timeout(600)
JOB = "clauses"
PROXY = (
    f'Object.spec.containers{{name: "proxy", image: "{TEST_IMAGE}", '
    'command: ["python3", "-c", "import time; time.sleep(100000)"], '
    "securityContext: Object.spec.containers.securityContext{allowPrivilegeEscalation: false, "
    'capabilities: Object.spec.containers.securityContext.capabilities{drop: ["ALL"]}}}'
)


def injection(name: str) -> list[dict[str, Any]]:
    """Return a MutatingAdmissionPolicy that adds the proxy to the pods of one namespace, and its binding."""
    group, metadata = "admissionregistration.k8s.io/v1", {"name": f"inject-{name}"}
    patch = f'[JSONPatch{{op: "add", path: "/spec/containers/-", value: {PROXY}}}]'
    spec = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ],
        },
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
    }
    return [
        {"apiVersion": group, "kind": "MutatingAdmissionPolicy", "metadata": metadata, "spec": spec},
        {
            "apiVersion": group,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": metadata,
            "spec": {"policyName": metadata["name"]},
        },
    ]


@pytest.fixture
def injected(ground: Ground) -> Iterator[None]:
    """Add a container to every new pod of the namespace."""
    kubectl = ground.kubectl
    objects = {"apiVersion": "v1", "kind": "List", "items": injection(kubectl.namespace)}
    if kubectl.run("get", "mutatingadmissionpolicies", check=False).returncode:
        pytest.skip("needs MutatingAdmissionPolicies, which Kubernetes has since 1.36")
    kubectl.run("create", "-f", "-", stdin=json.dumps(objects))
    container = {
        "name": "main", "image": TEST_IMAGE,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    security = {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked"},
        "spec": {"containers": [container], "securityContext": security},
    }  # fmt: skip

    def is_in_force() -> bool:
        made = kubectl.run("create", "-f", "-", "--dry-run=server", "-o", "json", stdin=json.dumps(pod)).stdout
        return len(json.loads(made)["spec"]["containers"]) == 2

    try:
        eventually(is_in_force)
        yield
    finally:
        kubectl.run("delete", "-f", "-", stdin=json.dumps(objects))


def test_an_attempt_ends_with_its_trainers_though_injected_containers_run_on(ground: Ground, injected: None) -> None:
    ground.start(JOB)
    pods = ground.training(JOB)
    assert [len(pod["spec"]["containers"]) for pod in pods] == [2, 2]
    kill = "kill -9 $(cat /scratch/rank-1.pid)"
    ground.kubectl.run("exec", pods[1]["metadata"]["name"], "-c", "trainer", "--", "sh", "-c", kill)
    ground.training(JOB, attempt=2)
    eventually(lambda: not ground.pods(JOB, attempt=1), ground.pods_at_a_glance)
    ground.order(JOB, "finish")
    complete = ground.in_phase(JOB, "Complete", attempt=2)
    assert classes(complete) == [("Infrastructure", True), ("Success", False)]
    eventually(lambda: not ground.pods(JOB), ground.pods_at_a_glance)
    assert len(ground.made_pods(JOB)) == 4
    ground.leaves_nothing(JOB)
