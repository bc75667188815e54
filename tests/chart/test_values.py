"""The chart refuses wrong values and names them, and the schema and the documents contain every value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from chart.values_table import DOCUMENTS, filled, rows
from support.helm import CHART, VERSION, Helm, HelmError, only

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"imgae": {}}, "at '': additional properties 'imgae' not allowed"),
    ({"image": {"tga": "1"}}, "at '/image': additional properties 'tga' not allowed"),
    ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
    ({"image": {"repository": "finetune-operator:1"}}, "at '/image/repository': 'finetune-operator:1' does not match"),
    ({"image": {"digest": "0123"}}, "at '/image/digest': '0123' does not match"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of"),
    ({"trainer": {"image": "finetune-trainer:1"}}, "at '/trainer/image': got string, want object"),
    ({"storage": {"claimName": "Models_1"}}, "at '/storage/claimName': 'Models_1' does not match"),
    ({"jobNetworkPolicy": {"egress": {}}}, "at '/jobNetworkPolicy/egress': got object, want array"),
    (
        {"jobNetworkPolicy": {"egress": [{"port": 443}]}},
        "at '/jobNetworkPolicy/egress/0': additional properties 'port'",
    ),
    ({"trust": {"remoteCode": "yes"}}, "at '/trust/remoteCode': got string, want boolean"),
    ({"imagePullSecrets": ["registry"]}, "at '/imagePullSecrets/0': got string, want object"),
    ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
    ({"scope": "global"}, "at '/scope': value must be one of 'cluster', 'namespaced'"),
    ({"scope": "namespaced", "watchNamespaces": ["Legal_1"]}, "at '/watchNamespaces/0': 'Legal_1' does not match"),
    ({"watchNamespaces": ["legal"]}, "watchNamespaces: is set, but scope is cluster"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name: is empty, but serviceAccount.create is false"),
    ({"serviceMonitor": {"enabled": True}, "service": {"enabled": False}}, "serviceMonitor.enabled: is true, but"),
    ({"serviceMonitor": {"interval": "often"}}, "at '/serviceMonitor/interval': 'often' does not match"),
    ({"crds": {"keep": "yes"}}, "at '/crds/keep': got string, want boolean"),
    ({"http": {"port": 80}}, "at '/http/port': minimum: got 80, want 1,024"),
    ({"nodeSelector": {"gpu": True}}, "at '/nodeSelector/gpu': got boolean, want string"),
    ({"resources": {"cpu": 1}}, "at '/resources': additional properties 'cpu' not allowed"),
    ({"podDisruptionBudget": {"maxUnavailable": "50%"}}, "at '/podDisruptionBudget/maxUnavailable': got string"),
    ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts': minItems: got 0, want 1"),
    ({"networkPolicy": {"apiServerCIDRs": ["192.0.2.1"]}}, "at '/networkPolicy/apiServerCIDRs/0': '192.0.2.1' does"),
    ({"fullnameOverride": "a" * 51}, "at '/fullnameOverride': maxLength: got 51, want 50"),
]


@pytest.mark.parametrize(("values", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_a_wrong_value_is_refused_with_its_name(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render(values)
    assert sentence in str(refused.value)


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of the values with another value at a dotted path."""
    copied = deepcopy(values)
    *within, name = path.split(".")
    inner = copied
    for part in within:
        inner = inner.setdefault(part, {})
    inner[name] = value
    return copied


def parts(path: str) -> Iterator[str]:
    """Yield a dotted path and the paths of the objects that contain it."""
    while path:
        yield path
        path = path.rpartition(".")[0]


DESCRIBED = {row.name: row.default for row in rows((CHART / "values.yaml").read_text())}
LISTS_AND_TEXTS = sorted(
    {path for path, default in DESCRIBED.items() if default in ("", [], {})} | {"jobNetworkPolicy.egress"}
)
NEEDED = sorted({part for path in DESCRIBED for part in parts(path)} - {*LISTS_AND_TEXTS, "resources"})
ENABLED: dict[str, Any] = {
    "networkPolicy": {"enabled": True},
    "podDisruptionBudget": {"enabled": True},
    "serviceMonitor": {"enabled": True},
}


@pytest.mark.parametrize("path", NEEDED)
def test_null_for_a_value_that_is_needed_is_refused_with_its_name(helm: Helm, path: str) -> None:
    within, _, name = path.rpartition(".")
    with pytest.raises(HelmError) as refused:
        helm.render(changed({}, path, None))
    pointer = "/" + within.replace(".", "/") if within else ""
    assert f"at '{pointer}': missing property '{name}'" in str(refused.value)


@pytest.mark.parametrize("path", LISTS_AND_TEXTS)
def test_null_for_a_list_or_a_text_is_an_empty_one(helm: Helm, path: str) -> None:
    empty = type(DESCRIBED[path])()
    assert helm.render(changed(ENABLED, path, None)) == helm.render(changed(ENABLED, path, empty))


def test_null_for_the_resources_sets_none(helm: Helm) -> None:
    (container,) = only(helm.render({"resources": None}), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "resources" not in container


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


def test_a_cluster_that_is_too_old_is_refused(helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"chart requires kubeVersion: >=1\.31"):
        helm.run("template", "rel", str(CHART), "--kube-version", "1.30.9")


def test_the_chart_is_of_the_package_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def objects_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of the schema that have named fields, with their dotted paths."""
    if "properties" in schema:
        yield path, schema
        for name, field in schema["properties"].items():
            yield from objects_of(field, f"{path}.{name}".lstrip("."))


def test_the_schema_knows_the_defaults_keys_and_no_others() -> None:
    for path, schema in objects_of(SCHEMA):
        values = DEFAULTS
        for name in filter(None, path.split(".")):
            values = values[name]
        assert schema["additionalProperties"] is False, path
        if path not in ("affinity",):  # its fields are defined by Kubernetes and have no defaults
            assert set(schema["properties"]) - {"global"} == set(values), path


def test_every_value_is_described() -> None:
    described = {row.name for row in rows((CHART / "values.yaml").read_text())}

    def leaves(value: Any, path: str) -> Iterator[str]:
        if path in described or not isinstance(value, dict):
            yield path
        else:
            for name, inner in value.items():
                yield from leaves(inner, f"{path}.{name}".lstrip("."))

    assert set(leaves(DEFAULTS, "")) == described


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_tables_are_the_generated_ones(document: Any) -> None:
    text = document.read_text()
    assert text == filled(text, (CHART / "values.yaml").read_text()), "run: make generate"
