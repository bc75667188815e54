"""Tests of the chart on a real cluster: its objects are accepted, and releases come and go without harm.

The operator does not run here (`replicas: 0`), because the tests are about objects. The whole cluster shares the
definition, so no test deletes or changes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart.matrix import MATRIX
from cluster.conftest import CRD, FROM_KUBECTL, OWNER, ROOT, new_namespace
from support.helm import Helm, HelmError, only
from support.kubectl import Kubectl
from support.releases import Releases, releases_in

SERVICE_MONITORS = Path(__file__).with_name("servicemonitors.yaml")
NAMESPACED: dict[str, Any] = {"scope": "namespaced", "replicas": 0}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def another_namespace(helm: Helm) -> Iterator[Releases]:
    """Provide the releases in a second namespace."""
    with new_namespace() as cluster, releases_in(helm, cluster) as found:
        yield found


@pytest.fixture(scope="module")
def service_monitors() -> Iterator[None]:
    """Define ServiceMonitors for the tests, unless the Prometheus operator's definition exists."""
    kubectl, name = Kubectl("default"), "crd/servicemonitors.monitoring.coreos.com"
    ours = kubectl.run("get", name, check=False).returncode != 0
    if ours:
        kubectl.run("create", "-f", str(SERVICE_MONITORS))
        kubectl.run("wait", "--for=condition=Established", name, "--timeout=30s")
    yield
    if ours:
        kubectl.run("delete", name)


def owner_of_the_crd(kubectl: Kubectl) -> str | None:
    annotations: dict[str, str] = kubectl.get(CRD)["metadata"].get("annotations", {})
    return annotations.get(f"{OWNER}name")


@pytest.mark.parametrize("name", MATRIX)
def test_the_api_server_accepts_every_object(helm: Helm, kubectl: Kubectl, service_monitors: None, name: str) -> None:
    objects = helm.render(MATRIX[name], namespace=kubectl.namespace)
    for found in objects:
        if found["metadata"].get("namespace") in ("legal", "shop"):
            found["metadata"]["namespace"] = kubectl.namespace
    flags = ["--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict"]
    every = {"apiVersion": "v1", "kind": "List", "items": objects}
    said = kubectl.run("apply", *flags, "-f", "-", stdin=json.dumps(every)).stdout
    assert said.count("(server dry run)") == len(objects)


def test_another_release_takes_the_kept_definition_over(releases: Releases, crd_of_kubectl: None) -> None:
    releases.install("first", NAMESPACED, *FROM_KUBECTL)
    releases.uninstall("first")
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        releases.install("second", NAMESPACED)
    releases.install("second", NAMESPACED, "--take-ownership")
    assert owner_of_the_crd(releases.kubectl) == "second"
    assert releases.objects("second")


def test_a_definition_of_kubectl_s_is_left_alone_or_taken_over(
    releases: Releases, kubectl: Kubectl, crd_of_kubectl: None
) -> None:
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        releases.install("new", NAMESPACED)
    releases.install("new", {**NAMESPACED, "crds": {"install": False}})
    assert owner_of_the_crd(kubectl) is None
    releases.uninstall("new")
    releases.install("new", NAMESPACED, *FROM_KUBECTL)
    assert owner_of_the_crd(kubectl) == "new"
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    releases.upgrade("new", NAMESPACED, "--force-conflicts")


def test_two_releases_of_one_name_work_in_two_namespaces(releases: Releases, another_namespace: Releases) -> None:
    values = {**NAMESPACED, "crds": {"install": False}}
    releases.install("finetune", values)
    another_namespace.install("finetune", values)
    another_namespace.uninstall("finetune")
    assert another_namespace.objects("finetune") == []
    assert "deployment.apps/finetune-operator" in releases.objects("finetune")


def test_a_release_watches_other_namespaces_than_its_own(releases: Releases, another_namespace: Releases) -> None:
    elsewhere = another_namespace.kubectl
    releases.install("far", {**NAMESPACED, "watchNamespaces": [elsewhere.namespace], "crds": {"install": False}})
    account = f"system:serviceaccount:{releases.kubectl.namespace}:far-finetune-operator"

    def may_list(kubectl: Kubectl) -> str:
        done = kubectl.run("auth", "can-i", "list", "finetunejobs", f"--as={account}", check=False)
        return done.stdout.strip()

    assert (may_list(elsewhere), may_list(releases.kubectl)) == ("yes", "no")


def test_the_pod_is_admitted_in_a_restricted_namespace(releases: Releases, kubectl: Kubectl) -> None:
    absent = {"repository": "localhost/absent", "pullPolicy": "Never"}
    releases.install("pod", {**NAMESPACED, "replicas": 1, "image": absent, "crds": {"install": False}})
    kubectl.run("wait", "pods", "-l", "app.kubernetes.io/instance=pod", "--for=create", "--timeout=60s")
    (pod,) = kubectl.get("pods", "-l", "app.kubernetes.io/instance=pod")
    rendered = only(releases.helm.render({"replicas": 1}), "Deployment")["spec"]["template"]["spec"]
    assert pod["spec"]["securityContext"] == rendered["securityContext"]
