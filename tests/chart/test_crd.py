"""The chart contains the generated CustomResourceDefinition of crds/."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.helm import CRD, ROOT, Helm, of_kind, only

from finetune_operator.api.crd import crd_yaml

KEEP = "helm.sh/resource-policy"
SYNC = "argocd.argoproj.io/sync-options"


def test_the_three_copies_are_equal() -> None:
    generated = crd_yaml()
    assert (ROOT / "crds" / "finetunejobs.yaml").read_text() == generated, "run: make generate"
    assert CRD.read_text() == generated, "run: make generate"


def test_rendered_it_is_the_file_with_labels_and_annotations(helm: Helm) -> None:
    rendered = only(helm.render(), "CustomResourceDefinition")
    del rendered["metadata"]["labels"], rendered["metadata"]["annotations"]
    assert rendered == yaml.safe_load(CRD.read_text())


@pytest.mark.parametrize(
    ("values", "annotations"),
    [
        ({}, {KEEP: "keep", SYNC: "ServerSideApply=true,Prune=false"}),
        ({"keep": False}, {SYNC: "ServerSideApply=true"}),
    ],
    ids=["kept", "not kept"],
)
def test_helm_and_argo_leave_it_unless_told_otherwise(
    helm: Helm, values: dict[str, Any], annotations: dict[str, str]
) -> None:
    assert only(helm.render({"crds": values}), "CustomResourceDefinition")["metadata"]["annotations"] == annotations


def test_it_can_be_left_to_others(helm: Helm) -> None:
    assert of_kind(helm.render({"crds": {"install": False}}), "CustomResourceDefinition") == []
