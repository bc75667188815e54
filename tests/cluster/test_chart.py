"""The chart's life on a real cluster: what it renders is accepted, and releases come, change and go without harm.

The operator does not run here (`replicas: 0`): this is about objects. The definition is shared by the whole cluster, so
no test deletes it or changes what is in it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart.matrix import MATRIX
from cluster.conftest import RESTRICTED
from support.helm import CHART, ROOT, VERSION, Helm, HelmError, helm_or_skip, only
from support.kubectl import Kubectl
from support.manifests import manifest

CRD = "crd/finetunejobs.finetune.dev"
OWNER = "meta.helm.sh/release-"
STOPPED: dict[str, Any] = {"replicas": 0}
NAMESPACED: dict[str, Any] = {**STOPPED, "scope": "namespaced"}
FROM_KUBECTL = ("--take-ownership", "--force-conflicts")
pytestmark = pytest.mark.timeout(300)


class Releases:
    """Releases in one namespace; those that are left are uninstalled at the end."""

    def __init__(self, helm: Helm, kubectl: Kubectl) -> None:
        self.helm = helm
        self.kubectl = kubectl
        self.names: set[str] = set()

    def install(self, name: str, values: dict[str, Any], *flags: str) -> None:
        self.names.add(name)
        self._run("install", name, str(self.helm.chart), *flags, values=values)

    def upgrade(self, name: str, values: dict[str, Any], *flags: str, chart: Path = CHART) -> None:
        self._run("upgrade", name, str(chart), *flags, values=values)

    def rollback(self, name: str) -> None:
        self._run("rollback", name)

    def uninstall(self, name: str) -> None:
        self._run("uninstall", name, "--wait", "--ignore-not-found")
        self.names.discard(name)

    def objects(self, name: str) -> list[str]:
        """What there is of a release in its namespace."""
        kinds = "deployments,services,serviceaccounts,roles,rolebindings"
        found = self.kubectl.run("get", kinds, "-l", f"app.kubernetes.io/instance={name}", "-o", "name")
        return found.stdout.split()

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.kubectl.get("deployment", f"{name}-finetune-operator"))

    def _run(self, *arguments: str, values: dict[str, Any] | None = None) -> None:
        self.helm.run(*arguments, "--namespace", self.kubectl.namespace, values=values)


@pytest.fixture(scope="module")
def helm() -> Helm:
    return helm_or_skip()


@pytest.fixture
def releases(helm: Helm, kubectl: Kubectl) -> Iterator[Releases]:
    with releases_in(helm, kubectl) as found:
        yield found


@contextlib.contextmanager
def releases_in(helm: Helm, kubectl: Kubectl) -> Iterator[Releases]:
    found = Releases(helm, kubectl)
    try:
        yield found
    finally:
        for name in list(found.names):
            found.uninstall(name)


@pytest.fixture
def another_namespace(helm: Helm) -> Iterator[Releases]:
    """Releases in a second namespace."""
    cluster = Kubectl(f"test-{uuid.uuid4().hex[:8]}")
    metadata = {"name": cluster.namespace, "labels": RESTRICTED}
    cluster.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    with releases_in(helm, cluster) as found:
        yield found
    cluster.run("delete", "namespace", cluster.namespace, "--wait=false")


@pytest.fixture
def crd_of_kubectl(kubectl: Kubectl) -> None:
    """The definition as kubectl leaves it, whatever releases had it before."""
    kubectl.run("annotate", CRD, f"{OWNER}name-", f"{OWNER}namespace-")
    kubectl.run("label", CRD, "app.kubernetes.io/managed-by-")
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))


def owner_of_the_crd(kubectl: Kubectl) -> str | None:
    annotations: dict[str, str] = kubectl.get(CRD)["metadata"].get("annotations", {})
    return annotations.get(f"{OWNER}name")


@pytest.mark.parametrize("name", MATRIX)
def test_the_api_server_accepts_every_object(helm: Helm, kubectl: Kubectl, name: str) -> None:
    monitored = kubectl.run("api-resources", "--api-group=monitoring.coreos.com", "-o", "name").stdout
    objects = helm.render(MATRIX[name], namespace=kubectl.namespace)
    for found in objects:
        if found["kind"] == "ServiceMonitor" and "servicemonitors" not in monitored:
            continue  # Prometheus' operator is not in this cluster
        if found["metadata"].get("namespace") in ("legal", "shop"):
            found["metadata"]["namespace"] = kubectl.namespace
        flags = ["--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict"]
        namespace = ["--namespace", found["metadata"].get("namespace", "")]
        kubectl.run("apply", *flags, *namespace, "-f", "-", stdin=json.dumps(found))


def test_a_release_is_installed_upgraded_rolled_back_and_uninstalled_and_its_jobs_stay(
    releases: Releases, kubectl: Kubectl, tmp_path: Path, crd_of_kubectl: None
) -> None:
    older = shutil.copytree(CHART, tmp_path / "finetune-operator")
    described = (older / "Chart.yaml").read_text()
    (older / "Chart.yaml").write_text(described.replace(VERSION, "0.0.1"))
    releases.helm = Helm(releases.helm.program, older)
    releases.install("old", NAMESPACED, *FROM_KUBECTL)
    kubectl.apply(manifest("kept", **{"metadata.namespace": kubectl.namespace}))
    before = kubectl.get("ftj", "kept")

    def version() -> tuple[str, str]:
        chart = kubectl.get(CRD)["metadata"]["labels"]["helm.sh/chart"]
        (container,) = releases.deployment("old")["spec"]["template"]["spec"]["containers"]
        return chart, container["image"]

    assert version() == ("finetune-operator-0.0.1", "finetune-operator:0.0.1")
    releases.upgrade("old", {**NAMESPACED, "trainer": {"image": {"repository": "another"}}})
    assert version() == (f"finetune-operator-{VERSION}", f"finetune-operator:{VERSION}")
    releases.rollback("old")
    assert version() == ("finetune-operator-0.0.1", "finetune-operator:0.0.1")
    releases.uninstall("old")
    assert releases.objects("old") == []
    assert kubectl.get("ftj", "kept") == before
    kubectl.run("delete", "ftj", "kept", "--timeout=20s")


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
    assert "deployment.apps/finetune-finetune-operator" in releases.objects("finetune")


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
