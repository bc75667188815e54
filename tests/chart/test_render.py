"""The chart renders a valid release for every combination of values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
from chart.matrix import EVERYTHING, MATRIX
from support.helm import CHART, VERSION, Helm, Object, of_kind, only
from support.pod_security import violations

from finetune_operator import constants
from finetune_operator.cli.configuration import read_settings
from finetune_operator.cli.main import parser
from finetune_operator.core.settings import Settings

OURS = {"app.kubernetes.io/name": "finetune-operator", "app.kubernetes.io/instance": "rel"}
CLUSTER_SCOPED = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}


@pytest.fixture(scope="module", params=MATRIX.values(), ids=MATRIX)
def objects(helm: Helm, request: pytest.FixtureRequest) -> list[Object]:
    return helm.render(request.param)


def pod(objects: list[Object]) -> Object:
    template: Object = only(objects, "Deployment")["spec"]["template"]
    return template


def container(objects: list[Object]) -> Object:
    (found,) = pod(objects)["spec"]["containers"]
    return dict(found)


def settings(objects: list[Object]) -> Settings:
    """Return the settings that the operator reads from the mounted configuration."""
    options = parser().parse_args(container(objects)["args"])
    path = PurePosixPath(options.config)
    (mount,) = (m for m in container(objects)["volumeMounts"] if m["mountPath"] == str(path.parent))
    (volume,) = (v for v in pod(objects)["spec"]["volumes"] if v["name"] == mount["name"])
    config = only(objects, "ConfigMap")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(config["data"][path.name])
        file.flush()
        return read_settings(file.name, options.trainer_image)


def selectors(objects: list[Object]) -> Iterator[dict[str, str]]:
    """Yield the selectors by which other objects select the operator's pod."""
    yield only(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    yield from (found["spec"]["selector"] for found in of_kind(objects, "Service"))
    yield from (found["spec"]["selector"]["matchLabels"] for found in of_kind(objects, "PodDisruptionBudget"))
    yield from (found["spec"]["podSelector"]["matchLabels"] for found in of_kind(objects, "NetworkPolicy"))


def test_no_two_objects_have_one_name(objects: list[Object]) -> None:
    names = [(o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(set(names)) == len(names)


def test_an_object_names_its_namespace_unless_it_has_none(objects: list[Object]) -> None:
    for found in objects:
        assert ("namespace" in found["metadata"]) != (found["kind"] in CLUSTER_SCOPED), found["metadata"]


def test_the_pod_meets_the_restricted_standard(objects: list[Object]) -> None:
    assert violations(pod(objects)) == []
    assert container(objects)["securityContext"]["readOnlyRootFilesystem"] is True


def test_every_object_says_whose_it_is(objects: list[Object]) -> None:
    for found in objects:
        labels = found["metadata"]["labels"]
        assert {key: labels[key] for key in OURS} == OURS
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_every_selector_finds_the_operator_s_pod(objects: list[Object]) -> None:
    for selector in selectors(objects):
        assert selector == OURS
        assert selector.items() <= pod(objects)["metadata"]["labels"].items()


def test_ports_are_found_by_their_name(objects: list[Object]) -> None:
    (port,) = container(objects)["ports"]
    assert container(objects)["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert container(objects)["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    assert container(objects)["startupProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert pod(objects)["spec"]["shareProcessNamespace"] is True, "PID 1 would not hear a signal while Python starts"
    for service in of_kind(objects, "Service"):
        assert service["spec"]["ports"] == [
            {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]}
        ]
    for monitor in of_kind(objects, "ServiceMonitor"):
        (service,) = of_kind(objects, "Service")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [port["name"]]


def test_the_arguments_are_what_the_operator_takes(objects: list[Object]) -> None:
    assert container(objects)["command"] == ["finetune"]
    options = parser().parse_args(container(objects)["args"])
    assert options.command == "operator"
    assert int(options.http_port) == container(objects)["ports"][0]["containerPort"]


def test_the_configuration_is_what_the_operator_reads(objects: list[Object]) -> None:
    network = settings(objects).network
    if network:
        (peer,) = [network.operator]
        assert peer is not None
        # The policy selects the operator of any release, because it may outlive the release that created it.
        assert peer["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "finetune-operator"}}
        assert peer["podSelector"]["matchLabels"].items() <= pod(objects)["metadata"]["labels"].items()
        namespace = only(objects, "Deployment")["metadata"]["namespace"]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_the_configuration_holds_the_values(helm: Helm) -> None:
    found = settings(helm.render(EVERYTHING))
    assert found.image == "mirror.example:5000/ops/finetune/trainer@sha256:" + "0" * 64
    assert (found.claim, found.allow_remote_code, found.allow_pickle_weights) == ("models", True, True)
    assert found.network is not None
    assert list(found.network.egress) == EVERYTHING["jobNetworkPolicy"]["egress"]
    assert settings(helm.render({"jobNetworkPolicy": {"enabled": False}})).network is None
    defaults = settings(helm.render())
    assert (defaults.claim, defaults.allow_remote_code, defaults.allow_pickle_weights) == ("finetune", False, False)


def test_the_pod_s_account_is_the_bound_one(objects: list[Object]) -> None:
    account = pod(objects)["spec"]["serviceAccountName"]
    for found in of_kind(objects, "ServiceAccount"):
        assert found["metadata"]["name"] == account
    for binding in of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "ops"}]


def test_all_values_arrive(helm: Helm) -> None:
    objects = helm.render(EVERYTHING)
    assert {o["metadata"]["name"] for o in objects} == {
        "tuner", "ops.tuner", "ops.tuner.view", "ops.tuner.edit", "finetunejobs.finetune.dev", "models",
    }  # fmt: skip
    spec, metadata = pod(objects)["spec"], pod(objects)["metadata"]
    for key in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert spec[key] == EVERYTHING[key]
    assert container(objects)["image"] == "mirror.example:5000/ops/finetune/operator:9.9"
    assert container(objects)["imagePullPolicy"] == "Always"
    assert metadata["labels"]["team"] == "ml"
    assert metadata["annotations"]["example.com/scrape"] == "true"
    assert only(objects, "ServiceAccount")["metadata"]["annotations"] == {"example.com/role": "tuner"}
    assert only(objects, "Service")["metadata"]["annotations"] == {"example.com/zone": "a"}
    monitor = only(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "1m"}]
    assert only(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 0


def test_a_user_s_labels_do_not_make_the_operator_s_pod_one_of_a_job_s(helm: Helm) -> None:
    labels = pod(helm.render(EVERYTHING))["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "Helm"
    assert labels["app.kubernetes.io/name"] == "finetune-operator"


def test_the_images_are_of_the_chart_s_version(helm: Helm) -> None:
    found = container(helm.render())
    assert found["image"] == f"finetune-operator:{VERSION}"
    assert settings(helm.render()).image == f"finetune-trainer:{VERSION}"


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_new_operator_is_ready_before_the_old_one_goes(helm: Helm, replicas: int) -> None:
    spec = only(helm.render({"replicas": replicas}), "Deployment")["spec"]
    assert spec["replicas"] == replicas
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_the_lease_s_holder_is_the_pod(helm: Helm) -> None:
    assert container(helm.render())["env"] == [
        {"name": "POD_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]


@pytest.mark.parametrize(
    ("values", "restarts"),
    [
        ({"trainer": {"image": {"tag": "2"}}}, True),
        ({"trust": {"remoteCode": True}}, True),
        ({"jobNetworkPolicy": {"egress": []}}, True),
        ({"replicas": 0}, False),
        ({"serviceMonitor": {"enabled": True}}, False),
    ],
    ids=str,
)
def test_the_operator_restarts_when_its_configuration_changes(
    helm: Helm, values: dict[str, Any], restarts: bool
) -> None:
    def config_hash(objects: list[Object]) -> str:
        return str(pod(objects)["metadata"]["annotations"]["finetune.dev/config-hash"])

    assert (config_hash(helm.render(values)) != config_hash(helm.render())) == restarts


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [
        ({}, None),
        ({"scope": "namespaced"}, ["ops"]),
        ({"scope": "namespaced", "watchNamespaces": ["legal", "shop"]}, ["legal", "shop"]),
    ],
    ids=str,
)
def test_the_network_policy_lets_the_operator_reach_the_agents_of_what_it_watches(
    helm: Helm, values: dict[str, Any], namespaces: list[str] | None
) -> None:
    policy = only(helm.render({**values, "networkPolicy": {"enabled": True}}), "NetworkPolicy")["spec"]
    dns, _, agents = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert agents["ports"] == [{"protocol": "TCP", "port": Settings(image="any").agent_port}]
    (peer,) = agents["to"]
    assert peer["podSelector"] == {"matchLabels": {constants.LABEL_MANAGED_BY: constants.MANAGER}}
    name = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}
    assert peer["namespaceSelector"] == ({"matchExpressions": [name]} if namespaces else {})


def test_claims_are_made_in_the_namespaces_that_want_them_and_outlive_the_release(helm: Helm) -> None:
    claims = of_kind(helm.render(EVERYTHING), "PersistentVolumeClaim")
    assert [claim["metadata"]["namespace"] for claim in claims] == ["legal", "shop"]
    assert {claim["metadata"]["name"] for claim in claims} == {"models"}
    assert all(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for claim in claims)
    assert [claim["spec"] for claim in claims] == [
        {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "100Gi"}}},
        {"accessModes": ["ReadWriteOnce"], "storageClassName": "nfs", "resources": {"requests": {"storage": "1Ti"}}},
    ]


def test_the_network_policy_takes_peers_and_the_api_server_s_address(helm: Helm) -> None:
    policy = only(helm.render(EVERYTHING), "NetworkPolicy")["spec"]
    (ingress,) = policy["ingress"]
    assert ingress["from"] == EVERYTHING["networkPolicy"]["from"]
    assert policy["egress"][1] == {
        "ports": [{"protocol": "TCP", "port": 6443}],
        "to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}, {"ipBlock": {"cidr": "2001:db8::1/128"}}],
    }


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        (
            {},
            [
                "watches all namespaces.",
                "kubectl -n ops rollout status deployment/rel-finetune-operator\n",
                "kubectl -n NAMESPACE get pvc finetune\n",
                "kubectl -n NAMESPACE apply -f job.yaml && kubectl -n NAMESPACE get finetunejobs -w\n",
                "let the chart make it: --set storage.claims[0].namespace=NAMESPACE,storage.claims[0].size=100Gi",
            ],
        ),
        ({"scope": "namespaced"}, ["watches namespace ops.", "kubectl -n ops get pvc finetune\n"]),
        ({"storage": {"claims": [{"namespace": "legal", "size": "1Gi"}]}}, ["kubectl -n legal apply -f job.yaml"]),
        ({"replicas": 0}, ["It is stopped: replicas is 0."]),
        ({"crds": {"install": False}}, ["the CustomResourceDefinition is yours to install and upgrade."]),
    ],
    ids=str,
)
def test_the_notes_say_what_was_installed(helm: Helm, values: dict[str, Any], sentences: list[str]) -> None:
    said = helm.run("install", "rel", str(CHART), "--namespace", "ops", "--dry-run=client", values=values)
    notes = said.partition("NOTES:")[2]
    assert all(sentence in notes for sentence in sentences), notes
