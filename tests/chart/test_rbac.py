"""The permissions that the chart's roles grant. The tests on a cluster check that the operator uses exactly these."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from chart.matrix import MATRIX
from support.helm import Helm, Object, of_kind, only

AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
NEVER = {"secrets", "pods/exec", "pods/proxy", "pods/log", "*"}
NAMESPACED = [name for name, values in MATRIX.items() if values.get("scope") == "namespaced"]


def own(objects: list[Object]) -> list[Object]:
    """Return the operator's roles except those for the Lease and those that extend the cluster's roles."""
    roles = of_kind(objects, "Role") + of_kind(objects, "ClusterRole")
    return [role for role in roles if not aggregated(role) and not for_leading(role)]


def for_leading(found: Object) -> bool:
    """Return whether a role or a binding is for the Lease: its name has no dot, unlike those of the other roles."""
    return bool("." not in found["metadata"]["name"])


def aggregated(role: Object) -> set[str]:
    """Return the cluster roles into which a role is aggregated."""
    return {label.removeprefix(AGGREGATE) for label in role["metadata"]["labels"] if label.startswith(AGGREGATE)}


@pytest.mark.parametrize("name", MATRIX)
def test_no_role_grants_what_leads_further(helm: Helm, name: str) -> None:
    objects = helm.render(MATRIX[name])
    for role in of_kind(objects, "Role") + of_kind(objects, "ClusterRole"):
        for rule in role["rules"]:
            assert not NEVER & {*rule["resources"], *rule["verbs"], *rule["apiGroups"]}


@pytest.mark.parametrize("name", NAMESPACED)
def test_an_operator_of_namespaces_has_a_role_in_each_and_none_of_the_cluster(helm: Helm, name: str) -> None:
    values = MATRIX[name]
    objects = helm.render(values)
    namespaces = values.get("watchNamespaces") or ["ops"]
    assert all(aggregated(role) for role in of_kind(objects, "ClusterRole"))
    assert of_kind(objects, "ClusterRoleBinding") == []
    assert [role["metadata"]["namespace"] for role in own(objects)] == namespaces
    for binding in of_kind(objects, "RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        (role,) = (
            role
            for role in of_kind(objects, "Role")
            if (role["metadata"]["namespace"], for_leading(role)) == (namespace, for_leading(binding))
        )
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    told = [
        after
        for before, after in zip(container["args"], container["args"][1:], strict=False)
        if before == "--namespace"
    ]
    assert told == namespaces


@pytest.mark.parametrize("enabled", [True, False])
def test_network_policies_are_granted_only_where_they_are_made(helm: Helm, enabled: bool) -> None:
    (role,) = own(helm.render({"jobNetworkPolicy": {"enabled": enabled}}))
    assert any("networkpolicies" in rule["resources"] for rule in role["rules"]) == enabled


@pytest.mark.parametrize(
    ("values", "name"),
    [({}, "finetune-operator.cluster"), ({"scope": "namespaced"}, "rel-finetune-operator")],
    ids=["cluster", "namespaced"],
)
def test_a_lease_is_granted_by_its_name_in_the_release_s_namespace_alone(
    helm: Helm, values: dict[str, Any], name: str
) -> None:
    objects = helm.render({**values, "rbac": {"aggregate": False}})
    (role,) = (role for role in of_kind(objects, "Role") if for_leading(role))
    assert role["metadata"]["namespace"] == "ops"
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    assert role["rules"] == [
        {**leases, "verbs": ["create"]},
        {**leases, "resourceNames": [name], "verbs": ["get", "update"]},
    ]
    assert lease_of(objects) == name
    assert not any("leases" in rule["resources"] for role in own(objects) for rule in role["rules"])


def lease_of(objects: list[Object]) -> str:
    """Return the name of the Lease in the operator's configuration."""
    return str(yaml.safe_load(only(objects, "ConfigMap")["data"]["config.yaml"])["leaseName"])


def test_releases_share_a_lease_only_if_both_watch_all_namespaces(helm: Helm) -> None:
    def lease(release: str, scope: str) -> str:
        return lease_of(helm.render({"scope": scope}, release=release))

    assert lease("a", "cluster") == lease("b", "cluster")
    others = [lease("a", "namespaced"), lease("b", "namespaced"), lease("finetune-operator", "namespaced")]
    assert len({*others, lease("a", "cluster")}) == 4


def test_the_two_scopes_grant_the_same(helm: Helm) -> None:
    (cluster,) = own(helm.render())
    (namespaced,) = own(helm.render({"scope": "namespaced"}))
    assert cluster["rules"] == namespaced["rules"]
    binding = only(helm.render(), "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == cluster["metadata"]["name"]


def test_releases_of_one_name_in_two_namespaces_do_not_meet(helm: Helm) -> None:
    def names(namespace: str) -> set[tuple[str, str, str]]:
        objects = helm.render({"scope": "namespaced", "crds": {"install": False}}, namespace=namespace)
        return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects}

    assert not names("one") & names("two")


def test_viewers_read_and_editors_write_finetunejobs(helm: Helm) -> None:
    view, edit = [role for role in of_kind(helm.render(), "ClusterRole") if aggregated(role)]
    assert aggregated(view) == {"view", "edit", "admin"}
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert aggregated(edit) == {"edit", "admin"}
    # Only the operator may write the status.
    assert [rule["resources"] for rule in edit["rules"]] == [["finetunejobs"]]
