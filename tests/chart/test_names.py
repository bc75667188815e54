"""The chart renders a valid release for every name that helm and Kubernetes allow for a release and a namespace.

Unquoted, YAML reads 123 as a number and no as false. A Service's name must not begin with a digit or contain a dot, but
a release's name may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from chart.matrix import EVERYTHING
from chart.test_rbac import for_leading
from chart.test_render import container, pod, selectors, settings
from support.helm import Helm, Object, of_kind, only

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
RELEASES = ["123", "no", "my.release", "1e3"]
NAMESPACES = ["456", "true"]
WATCHED = ["123", "null"]
GUARDED: dict[str, Any] = {
    **{key: value for key, value in EVERYTHING.items() if key != "fullnameOverride"},
    "priorityClassName": "1",
}
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": GUARDED,
    "own namespace": {"scope": "namespaced"},
    "namespaced": {**GUARDED, "scope": "namespaced", "watchNamespaces": WATCHED},
    "names that are no strings": {"fullnameOverride": "no", "serviceAccount": {"create": False, "name": "123"}},
}


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=NAMESPACES)
def namespace(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=VALUES.values(), ids=VALUES)
def objects(helm: Helm, release: str, namespace: str, request: pytest.FixtureRequest) -> list[Object]:
    return helm.render(request.param, release=release, namespace=namespace)


def fields(value: Any, *keys: str) -> Iterator[Any]:
    """Yield the values of these keys anywhere in an object, except in the definition of FineTuneJobs."""
    if isinstance(value, dict) and value.get("kind") != "CustomResourceDefinition":
        for key, inner in value.items():
            if key in keys:
                yield inner
            yield from fields(inner, *keys)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, *keys)


def test_every_name_is_a_string(objects: list[Object]) -> None:
    for found in objects:
        assert isinstance(found["metadata"]["name"], str)
        assert isinstance(found["metadata"].get("namespace", ""), str)
    for name in fields(objects, "name", "namespace", "serviceAccountName", "priorityClassName"):
        assert isinstance(name, str | dict), name
    assert all(isinstance(argument, str) for argument in container(objects)["args"])


def test_every_label_is_a_string(objects: list[Object], release: str) -> None:
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    every = [found["metadata"]["labels"] for found in objects] + list(fields(objects, "labels", "matchLabels"))
    for labels in every:
        assert all(isinstance(value, str) for value in labels.values()), labels


def test_every_selector_finds_the_operator_s_pod_alone(objects: list[Object], release: str) -> None:
    ours = {"app.kubernetes.io/name": "finetune-operator", "app.kubernetes.io/instance": release}
    for selector in selectors(objects):
        assert selector == ours
        assert selector.items() <= pod(objects)["metadata"]["labels"].items()


def test_a_name_is_one_that_a_service_may_have(objects: list[Object]) -> None:
    (service,) = of_kind(objects, "Service")
    assert DNS_1035.fullmatch(service["metadata"]["name"])


def test_the_configuration_is_what_the_operator_reads(objects: list[Object], namespace: str) -> None:
    network = settings(objects).network
    assert network is not None
    assert network.operator is not None
    assert network.operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def test_roles_are_in_the_namespaces_that_are_watched(objects: list[Object], namespace: str) -> None:
    arguments = container(objects)["args"]
    told = [after for before, after in pairwise(arguments) if before == "--namespace"]
    working = [role for role in of_kind(objects, "Role") if not for_leading(role)]
    assert [role["metadata"]["namespace"] for role in working] == told
    assert told in ([], [namespace], WATCHED)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("rel", "rel-finetune-operator"),
        ("my-finetune-operator", "my-finetune-operator"),
        ("finetune", "finetune-operator"),
        ("fine", "fine-finetune-operator"),
        ("my.release", "my-release-finetune-operator"),
        ("123", "r123-finetune-operator"),
        ("a" * 49 + ".b", "a" * 49),
        ("a" * 48 + "--b", "a" * 48),
    ],
)
def test_a_release_names_its_objects(helm: Helm, release: str, name: str) -> None:
    assert only(helm.render(release=release), "Service")["metadata"]["name"] == name


def test_the_objects_of_two_releases_outside_of_namespaces_do_not_meet(helm: Helm) -> None:
    def names(namespace: str, fullname: str) -> set[tuple[str, str]]:
        objects = helm.render({"fullnameOverride": fullname, "crds": {"install": False}}, namespace=namespace)
        return {(o["kind"], o["metadata"]["name"]) for o in objects if "namespace" not in o["metadata"]}

    assert not names("a", "b-c") & names("a-b", "c")
    assert not names("a", "b-view") & names("a", "b")
