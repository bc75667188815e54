"""Tests that the manifests for Argo CD and Flux refer to this repository's files and use the health of docs/gitops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.health import FLUX_HEALTH

from finetune_operator.api.parse import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "gitops"
FILES = sorted(FOLDER.rglob("*.yaml"))


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind, by name."""
    found = (yaml.safe_load(file.read_text()) for file in FILES)
    return {obj["metadata"]["name"]: obj for obj in found if obj["kind"] == kind}


APPLICATIONS, KUSTOMIZATIONS = objects("Application"), objects("Kustomization")
RELEASES, REPOSITORIES = objects("HelmRelease"), objects("GitRepository")


def paths(spec: dict[str, Any]) -> list[str]:
    """Return all text values of the keys path and chart, at any depth."""
    found = [str(value) for key, value in spec.items() if key in ("path", "chart") and isinstance(value, str)]
    return found + [path for value in spec.values() if isinstance(value, dict) for path in paths(value)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_a_path_is_in_this_repository(file: Path) -> None:
    obj = yaml.safe_load(file.read_text())
    named = paths(obj["spec"])
    assert len(named) == (0 if obj["kind"] == "GitRepository" else 1)
    assert all((ROOT / path).is_dir() for path in named), named


def test_there_is_one_object_of_each_role() -> None:
    assert set(APPLICATIONS) == set(KUSTOMIZATIONS) == {"finetune-operator", "models"}
    assert (set(RELEASES), set(REPOSITORIES)) == ({"finetune-operator"}, {"finetune"})


def test_the_models_are_valid_jobs_and_nothing_else() -> None:
    for path in (APPLICATIONS["models"]["spec"]["source"]["path"], KUSTOMIZATIONS["models"]["spec"]["path"]):
        manifests = [yaml.safe_load(file.read_text()) for file in (ROOT / path).rglob("*.yaml")]
        assert manifests
        for manifest in manifests:
            parse(manifest)


def test_the_health_is_that_of_the_documents() -> None:
    assert KUSTOMIZATIONS["models"]["spec"]["healthCheckExprs"] == yaml.safe_load(FLUX_HEALTH.read_text())


def test_models_wait_for_the_operator_s_release() -> None:
    (needed,) = KUSTOMIZATIONS["models"]["spec"]["dependsOn"]
    operator = KUSTOMIZATIONS[needed["name"]]["spec"]
    assert operator["wait"] is True
    assert (ROOT / operator["path"] / "helmrelease.yaml") in FILES


def test_sources_that_flux_is_given_are_there() -> None:
    releases = [release["spec"]["chart"]["spec"] for release in RELEASES.values()]
    for spec in [*releases, *(obj["spec"] for obj in KUSTOMIZATIONS.values())]:
        assert spec["sourceRef"] == {"kind": "GitRepository", "name": next(iter(REPOSITORIES))}


def test_no_difference_is_ignored() -> None:
    for application in APPLICATIONS.values():
        assert "ignoreDifferences" not in application["spec"]
        assert "ServerSideApply=true" in application["spec"]["syncPolicy"]["syncOptions"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_the_readme_links_to_every_manifest(file: Path) -> None:
    assert f"]({file.relative_to(FOLDER)})" in (FOLDER / "README.md").read_text()
