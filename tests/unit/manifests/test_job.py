"""The pods of an attempt are restricted and complete, and the user's fields are where they belong."""

import re
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest
from support.pod_security import violations

from finetune_operator.api.parse import parse
from finetune_operator.constants import MAX_NAME_LENGTH
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.manifests.children import children

SETTINGS = Settings(image="trainer:1")
EVERYTHING: dict[str, Any] = {
    "spec.resources": {
        "nodes": 3,
        "gpusPerNode": 8,
        "cpu": "64",
        "memory": "512Gi",
        "sharedMemory": "64Gi",
        "scratch": "1Ti",
    },
    "spec.model": {"uri": "hf://a/b", "secretName": "hub"},
    "spec.dataset.uri": "pvc://corpus.v1/data",
    "spec.podTemplate": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "FINETUNE_WORKSPACE", "value": "/etc"}],
        "labels": {"team": "legal", "finetune.dev/job": "stolen"},
        "annotations": {"note": "x", "karpenter.sh/do-not-disrupt": "false"},
        "securityContext": {"fsGroup": 7},
        "serviceAccountName": "trainer",
        "volumes": [{"name": "x", "emptyDir": {}}],
        "volumeMounts": [{"name": "x", "mountPath": "/x"}],
    },
}


def made(name: str = "clauses", **changes: Any) -> dict[str, Any]:
    job = parse(manifest(name, **{"metadata.uid": "0b5e7d2a-1", **changes}))
    return {r.kind: o for r, o in children(job, next_run(job, 1, SETTINGS, "nonce", NOW), SETTINGS)}


def pod_of(objects: dict[str, Any]) -> Any:
    return objects["Job"]["spec"]["template"]["spec"]


def environment(objects: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(objects)["containers"]
    names = [v["name"] for v in container["env"]]
    assert len(names) == len(set(names)), "a variable is there twice"
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["smallest", "everything"])
def test_pods_meet_the_restricted_standard(changes: dict[str, Any]) -> None:
    assert violations(made(**changes)["Job"]["spec"]["template"]) == []


def test_a_pod_that_is_deleted_before_its_agent_listens_ends_as_no_process_of_it_is_pid_1() -> None:
    assert pod_of(made())["shareProcessNamespace"] is True


def test_pods_get_no_service_account_token_and_a_read_only_root() -> None:
    pod = pod_of(made())
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_n_nodes_are_exactly_n_pods(nodes: int) -> None:
    spec = made(**{"spec.resources.nodes": nodes})["Job"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["completionMode"]) == (nodes, nodes, "Indexed")


def test_requests_are_limits_and_gpus_are_among_them() -> None:
    resources = pod_of(made(**EVERYTHING))["containers"][0]["resources"]
    disk = {"ephemeral-storage": "1Ti"}
    assert resources["requests"] == resources["limits"] == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": 8, **disk}
    assert "nvidia.com/gpu" not in pod_of(made())["containers"][0]["resources"]["limits"]


def test_of_the_node_s_disk_only_what_the_user_asks_for_is_reserved() -> None:
    def disk(pod: Any) -> tuple[str, str, str]:
        resources = pod["containers"][0]["resources"]
        (size,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "scratch")
        return resources["requests"]["ephemeral-storage"], resources["limits"]["ephemeral-storage"], size

    assert disk(pod_of(made())) == ("0", "100Gi", "100Gi")
    assert disk(pod_of(made(**EVERYTHING))) == ("1Ti", "1Ti", "1Ti")


def test_the_user_s_fields_are_there_and_ours_win() -> None:
    objects = made(**EVERYTHING)
    template, pod = objects["Job"]["spec"]["template"], pod_of(objects)
    assert template["metadata"]["labels"]["team"] == "legal"
    assert template["metadata"]["labels"]["finetune.dev/job"] == "clauses"
    assert template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"
    assert (pod["nodeSelector"], pod["serviceAccountName"]) == ({"pool": "gpu"}, "trainer")
    assert pod["securityContext"]["fsGroup"] == 7
    assert pod["automountServiceAccountToken"] is False
    assert environment(objects)["NCCL_DEBUG"] == "INFO"
    assert environment(objects)["FINETUNE_WORKSPACE"] == "/workspace"


def test_a_hub_token_comes_from_the_secret_and_is_in_no_manifest() -> None:
    assert environment(made(**EVERYTHING))["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    assert "HF_TOKEN" not in environment(made())


def test_another_claim_is_mounted_read_only() -> None:
    pod = pod_of(made(**EVERYTHING))
    volume = next(v for v in pod["volumes"] if v.get("persistentVolumeClaim", {}).get("claimName") == "corpus.v1")
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert mount == {"name": volume["name"], "mountPath": "/claims/corpus.v1", "readOnly": True}
    assert "." not in volume["name"]


def test_all_that_is_written_outside_of_the_storage_goes_to_the_scratch_volume() -> None:
    variables = environment(made())
    for name in ("HOME", "TMPDIR", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert variables[name].startswith("/scratch/")


def test_rank_0_is_found_by_a_name_that_its_service_makes() -> None:
    objects = made(**{"spec.resources.nodes": 2})
    name = objects["Job"]["metadata"]["name"]
    assert objects["Service"]["metadata"]["name"] == pod_of(objects)["subdomain"] == name
    assert environment(objects)["FINETUNE_RENDEZVOUS"] == f"{name}-0.{name}.default.svc:29500"
    assert objects["Service"]["spec"]["publishNotReadyAddresses"] is True


def test_the_longest_name_makes_a_host_name_that_fits() -> None:
    name = made("a" * MAX_NAME_LENGTH)["Job"]["metadata"]["name"]
    assert len(f"{name[:-3]}9999-99-999") <= 63


def test_the_parent_s_labels_and_annotations_are_not_copied() -> None:
    tracked = {"app.kubernetes.io/instance": "argo-app"}
    objects = made(**{"metadata.labels": tracked, "metadata.annotations": {"argocd.argoproj.io/tracking-id": "x"}})
    assert "argo" not in str(objects)


def test_claims_of_like_or_long_names_are_different_volumes() -> None:
    long = "c" * 70
    uris = {"spec.model.uri": f"pvc://{long}-1/m", "spec.dataset.uri": f"pvc://{long}-2/d"}
    like = {"spec.model.uri": "pvc://a.b/m", "spec.dataset.uri": "pvc://a-b/d"}
    edge = {"spec.model.uri": f"pvc://{'c' * 56}-x/m"}
    for changes in (uris, like, edge):
        names = [v["name"] for v in pod_of(made(**changes))["volumes"]]
        assert len(names) == len(set(names))
        assert all(len(name) <= 63 and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for name in names)


def test_the_storage_s_own_claim_is_mounted_twice_and_claimed_once() -> None:
    pod = pod_of(made(**{"spec.storage.claimName": "shared", "spec.model.uri": "pvc://shared/minilm"}))
    claims = [v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["workspace"]
    mounts = {m["mountPath"]: (m["name"], m.get("readOnly", False)) for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["/workspace"] == ("workspace", False)
    assert mounts["/claims/shared"] == ("workspace", True)


def affinity_of(given: Any, avoid: list[str]) -> Any:
    job = parse(manifest(**{"metadata.uid": "0b5e7d2a-1", "spec.podTemplate": {"affinity": given}}))
    run = next_run(job, 1, SETTINGS, "nonce", NOW).model_copy(update={"attempt": 2, "avoid_nodes": avoid})
    return pod_of({r.kind: o for r, o in children(job, run, SETTINGS)}).get("affinity")


def test_nodes_that_failed_are_avoided_beside_what_the_user_wants() -> None:
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}
    given = {"podAffinity": {"x": []}, "nodeAffinity": {preferred: [wish], "required": 1}}
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("bad", "worse")]
    away = {"weight": 100, "preference": {"matchFields": others}}
    assert affinity_of(given, ["bad", "worse"]) == {
        "podAffinity": {"x": []}, "nodeAffinity": {preferred: [wish, away], "required": 1},
    }  # fmt: skip
    assert affinity_of(given, []) == given
    assert affinity_of(None, ["bad"])["nodeAffinity"][preferred][0]["weight"] == 100


@pytest.mark.parametrize("nodes", [1, "x", [], {"preferredDuringSchedulingIgnoredDuringExecution": 7}])
def test_what_is_no_affinity_is_left_for_the_api_server_to_refuse(nodes: Any) -> None:
    given = {"nodeAffinity": nodes}
    expected = affinity_of(given, ["bad"])
    assert expected == given or isinstance(expected["nodeAffinity"], dict)
