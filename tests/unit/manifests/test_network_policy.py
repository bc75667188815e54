"""The NetworkPolicy of a job's pods denies all connections except the listed ones."""

from typing import Any

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.constants import LABEL_POLICY, MAX_NAME_LENGTH
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Network, Settings
from finetune_operator.manifests.children import children

HTTPS = {"ports": [{"protocol": "TCP", "port": 443}]}
OPERATOR = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "finetune-system"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "finetune-operator"}},
}


def made(network: Network | None, name: str = "clauses", run: int = 1, uid: str = "0b5e7d2a-1") -> list[dict[str, Any]]:
    settings = Settings(image="trainer:1", network=network)
    job = parse(manifest(name, **{"metadata.uid": uid}))
    return [child for _, child in children(job, next_run(job, run, settings, "nonce", NOW), settings)]


def policy_and_pod(network: Network, **other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    policy, *_, job = made(network, **other)
    assert (policy["kind"], job["kind"]) == ("NetworkPolicy", "Job"), "no pod is ever without its policy"
    return policy, job["spec"]["template"]


def test_only_peers_the_operator_and_the_listed_egress_are_allowed() -> None:
    policy, _ = policy_and_pod(Network((HTTPS,), OPERATOR))
    pods = {"matchLabels": {LABEL_POLICY: policy["metadata"]["name"]}}
    assert policy["spec"] == {
        "podSelector": pods,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": pods}]},
            {"ports": [{"protocol": "TCP", "port": 8471}], "from": [OPERATOR]},
        ],
        "egress": [
            {"to": [{"podSelector": pods}]},
            {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            HTTPS,
        ],
    }


def test_its_pods_and_no_others_bear_the_label_that_it_selects() -> None:
    policy, pod = policy_and_pod(Network())
    ((key, value),) = policy["spec"]["podSelector"]["matchLabels"].items()
    assert pod["metadata"]["labels"][key] == value
    other, _ = policy_and_pod(Network(), uid="ffffffff-1")
    assert other["spec"]["podSelector"] != policy["spec"]["podSelector"]


def test_an_operator_elsewhere_leaves_the_agents_port_open_and_no_other() -> None:
    policy, _ = policy_and_pod(Network())
    assert policy["spec"]["ingress"][1] == {"ports": [{"protocol": "TCP", "port": 8471}]}


def test_all_runs_of_a_job_share_one_policy() -> None:
    assert policy_and_pod(Network())[0] == policy_and_pod(Network(), run=2)[0]


def test_another_configuration_makes_another_policy_for_the_pods_that_come() -> None:
    older, _ = policy_and_pod(Network((HTTPS,)))
    newer, pod = policy_and_pod(Network())
    assert older["metadata"]["name"] != newer["metadata"]["name"]
    assert pod["metadata"]["labels"][LABEL_POLICY] == newer["metadata"]["name"]


def test_it_goes_with_its_job_and_its_name_fits_a_label() -> None:
    policy, _ = policy_and_pod(Network(), name="a" * MAX_NAME_LENGTH)
    (owner,) = policy["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneJob", "0b5e7d2a-1", True)
    assert len(policy["metadata"]["name"]) <= 63


def test_no_policy_is_made_where_the_configuration_wants_none() -> None:
    assert [child["kind"] for child in made(None)] == ["ConfigMap", "Service", "Job"]
