"""Tests that the chart's roles grant exactly what the operator uses, according to the API server's audit log.

`finetune operator` runs on this machine with a token of the chart's service account, and meets jobs that make it use
every right: jobs that train, a claim to read, names that are taken, pods that are refused. FINETUNE_AUDIT_LOG names the
log, which must hold at least the metadata of each request. Audit policies often omit events and leases, so their
effects prove that the operator uses these rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import TEST_IMAGE
from support.helm import Helm, Object, of_kind, only
from support.kubectl import Kubectl
from support.manifests import manifest

from finetune_operator.core.run.naming import child_name

AUDIT_LOG = os.environ.get("FINETUNE_AUDIT_LOG")
Right = tuple[str, str, str]
"""A verb, a group and a resource."""
LEASES = ("coordination.k8s.io", "leases")
UNLOGGED: set[Right] = {
    ("create", "events.k8s.io", "events"),
    ("list", "", "events"),
    *((verb, *LEASES) for verb in ("get", "create", "update")),
}
ENDS: dict[str, Any] = {"spec.faultTolerance": {"maxRestarts": 0}, "spec.ttlSecondsAfterFinished": 1}
"""Changes for a job that fails once, and whose children are deleted then."""

pytestmark = pytest.mark.timeout(300)


@dataclass
class Account:
    """The chart's service account, with the roles of a release in one of the two scopes."""

    kubectl: Kubectl
    scope: str
    objects: list[Object]

    @property
    def name(self) -> str:
        return str(only(self.objects, "ServiceAccount")["metadata"]["name"])

    @property
    def user(self) -> str:
        """The account's name in the audit log."""
        return f"system:serviceaccount:{self.kubectl.namespace}:{self.name}"

    @property
    def granted(self) -> set[Right]:
        return {
            (verb, group, resource)
            for role in of_kind(self.objects, "Role") + of_kind(self.objects, "ClusterRole")
            for rule in role["rules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }


@pytest.fixture(params=["namespaced", "cluster"])
def account(helm: Helm, kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[Account]:
    """Provide the account, whose objects are in the cluster until the test ends."""
    values = {"scope": request.param, "crds": {"install": False}, "rbac": {"aggregate": False}}
    objects = helm.render(values, namespace=kubectl.namespace)
    kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]
    applied = [found for kind in kinds for found in of_kind(objects, kind)]
    for found in applied:
        kubectl.apply(found)
    yield Account(kubectl, request.param, objects)
    for found in applied:
        kubectl.run("delete", found["kind"], found["metadata"]["name"])


def requests(user: str) -> Iterator[dict[str, Any]]:
    """Return the complete entries of the audit log about a user's requests."""
    with Path(AUDIT_LOG or "").open() as log:
        for line in log:
            if user in line and line.endswith("\n"):
                entry = json.loads(line)
                if entry["user"]["username"] == user:
                    yield entry


def used(user: str) -> set[Right]:
    """Return the rights that a user's requests for objects needed."""
    return {
        (entry["verb"], of.get("apiGroup", ""), "/".join(filter(None, (of["resource"], of.get("subresource")))))
        for entry in requests(user)
        if (of := entry.get("objectRef")) and "resource" in of
    }


@pytest.fixture
def start_operator(account: Account, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Return a function that starts the operator as the account, with the chart's configuration and scope."""
    config = tmp_path / "config.yaml"
    config.write_text(only(account.objects, "ConfigMap")["data"]["config.yaml"])
    command = [sys.executable, "-m", "finetune_operator.cli.main", "operator", "--config", str(config)]
    command += ["--trainer-image", TEST_IMAGE, "--http-port", "0"]
    command += ["--namespace", account.kubectl.namespace] if account.scope == "namespaced" else []
    environment = {**os.environ, "KUBECONFIG": str(account.kubectl.kubeconfig(account.name, tmp_path / "kubeconfig"))}
    log = tmp_path / "operator.log"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, env=environment, stderr=output))

    yield start
    for process in started:
        process.terminate()
        process.wait(30)
        print(log.read_text())


@pytest.fixture
def claim(kubectl: Kubectl, tmp_path: Path) -> Iterator[None]:
    """Provide the claim `finetune`, which is empty and can be mounted by one node."""
    volume = f"{kubectl.namespace}-claim"
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    behind = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(tmp_path)}}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": {**spec, **behind}}
    )
    wanted = {"volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "finetune"},
            "spec": {**spec, **wanted},
        }
    )
    yield
    kubectl.run("delete", "pv", volume, "--wait=false")


def submit(kubectl: Kubectl, name: str, **changes: Any) -> str:
    """Apply a job; return the name of its first attempt's children."""
    resources = {"gpusPerNode": 0, "cpu": "100m", "memory": "512Mi", "sharedMemory": "64Mi"}
    small = {"spec.resources": resources}
    kubectl.apply(manifest(name, **{"metadata.namespace": kubectl.namespace, **small, **changes}))
    uid = kubectl.get("ftj", name)["metadata"]["uid"]
    return child_name(name, uid, 1, 1)


def until(what: Callable[[], Any], says: str, seconds: float = 60) -> Any:
    """Return the first true value of `what`. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"never came true: {says}")
        time.sleep(0.3)
    return found


def condition(kubectl: Kubectl, name: str, kind: str, reason: str) -> dict[str, Any]:
    """Return the condition of a job when it is True for this reason."""

    def look() -> dict[str, Any] | None:
        conditions = kubectl.get("ftj", name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if (c["type"], c["status"], c["reason"]) == (kind, "True", reason)), None)

    return dict(until(look, f"{kind} of {name} by {reason}"))


@pytest.mark.skipif(AUDIT_LOG is None, reason="needs the API server's audit log: set FINETUNE_AUDIT_LOG to its file")
def test_the_operator_uses_all_that_is_granted_and_is_refused_nothing(
    kubectl: Kubectl, account: Account, claim: None, start_operator: Callable[[], None]
) -> None:
    submit(kubectl, "plain", **ENDS)
    submit(kubectl, "wide", **{"spec.resources.nodes": 2})
    submit(kubectl, "unwelcome", **{"spec.podTemplate": {"securityContext": {"runAsNonRoot": False}}})
    kubectl.run("create", "configmap", submit(kubectl, "config-taken"))
    kubectl.run("create", "service", "clusterip", submit(kubectl, "service-taken"), "--tcp=80")

    start_operator()
    condition(kubectl, "plain", "Failed", "Failed")  # the claim has no such model
    submit(
        kubectl, "plain", **ENDS, **{"spec.training": {"seed": 18}}
    )  # its second run finds the NetworkPolicy of the first
    condition(kubectl, "wide", "Stalled", "VolumeNotShared")
    condition(kubectl, "config-taken", "Stalled", "NameConflict")
    condition(kubectl, "service-taken", "Stalled", "NameConflict")

    def quoted() -> bool:
        return "runAsNonRoot" in json.dumps(kubectl.get("ftj", "unwelcome").get("status", {}))

    until(quoted, "the refusal is quoted, so events were listed")
    told = {e["reason"] for e in kubectl.get("events.events.k8s.io") if e["regarding"]["kind"] == "FineTuneJob"}
    assert {"NameConflict", "VolumeNotShared"} <= told  # the operator has created events

    def renewed() -> bool:
        (lease,) = kubectl.get("leases")
        return bool(lease["spec"]["renewTime"] > lease["spec"]["acquireTime"])

    until(renewed, "the lease was read, made and written")

    with contextlib.suppress(TimeoutError):  # the log may be late; the assertions below report what is missing
        until(lambda: used(account.user) | UNLOGGED >= account.granted, "all that is granted is used", seconds=30)
    assert refused(account.user, kubectl.namespace) == []
    assert used(account.user) | UNLOGGED == account.granted


def refused(user: str, namespace: str) -> list[str]:
    """Return the refused requests for objects of this namespace or of all namespaces.

    Requests in other namespaces are ignored: many are refused in a namespace that is being deleted.
    """
    return [
        entry["requestURI"]
        for entry in requests(user)
        if entry["responseStatus"]["code"] == 403
        and entry.get("objectRef", {}).get("namespace", namespace) == namespace
    ]


def test_those_who_may_edit_a_namespace_may_edit_its_finetunejobs(helm: Helm, kubectl: Kubectl) -> None:
    roles = helm.render({"scope": "namespaced", "crds": {"install": False}}, namespace=kubectl.namespace)
    aggregated = of_kind(roles, "ClusterRole")
    for role in aggregated:
        kubectl.apply(role)
    try:
        for person, role in (("viewer", "view"), ("editor", "edit")):
            kubectl.run("create", "rolebinding", person, f"--clusterrole={role}", f"--user={person}")

        def may(person: str, verb: str, *flags: str) -> bool:
            done = kubectl.run("auth", "can-i", verb, "finetunejobs", f"--as={person}", *flags, check=False)
            return done.stdout.strip() == "yes"

        until(lambda: may("viewer", "list") and may("editor", "create"), "the roles are aggregated")
        assert not may("viewer", "create")
        assert may("editor", "get")
        assert not may("editor", "update", "--subresource=status")
    finally:
        for role in aggregated:
            kubectl.run("delete", "clusterrole", role["metadata"]["name"])
