"""Tests that labels and annotations which a GitOps tool or Helm writes on a FineTuneJob are not copied to its children.

A tool would regard a child with them as its own, and prune it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator import constants
from finetune_operator.api.parse import parse
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Network, Settings
from finetune_operator.manifests.children import children

SETTINGS = Settings(image="trainer:test", network=Network())
LABELS = {
    "app.kubernetes.io/instance": "models",
    "app.kubernetes.io/managed-by": "Helm",
    "argocd.argoproj.io/instance": "models",
    "helm.sh/chart": "models-1.0.0",
    "kustomize.toolkit.fluxcd.io/name": "models",
    "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    "helm.toolkit.fluxcd.io/name": "models",
    "helm.toolkit.fluxcd.io/namespace": "flux-system",
    "team": "legal",
}
ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": "models:finetune.dev/FineTuneJob:default/clauses",
    "argocd.argoproj.io/sync-wave": "3",
    "argocd.argoproj.io/sync-options": "Prune=confirm",
    "kubectl.kubernetes.io/last-applied-configuration": "{}",
    "kustomize.toolkit.fluxcd.io/ssa": "Merge",
    "meta.helm.sh/release-name": "models",
    "meta.helm.sh/release-namespace": "legal",
    "owner": "legal",
}
KEYS = LABELS.keys() | ANNOTATIONS.keys()
OURS = {constants.LABEL_MANAGED_BY}
"""The label that Helm sets too, and that has the operator's own value on children."""


def built(**changes: Any) -> list[dict[str, Any]]:
    """Return the children of the first attempt of a job with all these labels and annotations."""
    marks = {"metadata.labels": LABELS, "metadata.annotations": ANNOTATIONS}
    given = manifest(**marks, **changes)
    given["metadata"] |= {"uid": "b23d6ea6-a86e-4107-9088-8a32fee82c0f", "generation": 1}
    job = parse(given)
    run = next_run(job, 1, SETTINGS, "nonce", NOW)
    return [child for _, child in children(job, run, SETTINGS)]


CHILDREN = built()


@pytest.mark.parametrize("child", CHILDREN, ids=lambda child: child["kind"])
def test_a_child_bears_no_label_or_annotation_of_its_parent(child: dict[str, Any]) -> None:
    assert all(not found & KEYS - OURS for found in all_keys(child)), child
    assert child["metadata"]["labels"][constants.LABEL_MANAGED_BY] == constants.MANAGER


def test_no_value_of_them_is_anywhere_in_the_children() -> None:
    text = json.dumps(CHILDREN)
    own = {"3", "{}", "models", "legal", "Merge"}
    """Values too short to search for in a text; the test above searches for their keys."""
    for value in {*LABELS.values(), *ANNOTATIONS.values()} - own:
        assert value not in text, value


def test_every_kind_of_child_is_here() -> None:
    assert [child["kind"] for child in CHILDREN] == ["NetworkPolicy", "ConfigMap", "Service", "Job"]


def test_labels_for_pods_are_those_of_the_pod_template() -> None:
    """A user who wants a label on pods sets it in the spec."""
    (job,) = [child for child in built(**{"spec.podTemplate": {"labels": {"team": "legal"}}}) if child["kind"] == "Job"]
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "legal"
    assert "team" not in job["metadata"]["labels"]


def all_keys(value: Any) -> list[set[str]]:
    """Return the keys of every mapping in the value."""
    if isinstance(value, dict):
        return [set(value), *(found for item in value.values() for found in all_keys(item))]
    if isinstance(value, list):
        return [found for item in value for found in all_keys(item)]
    return []
