"""How `finetune run` checks the files that a job names, before anything starts."""

from __future__ import annotations

from pathlib import Path

from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.cli.machine import faults
from finetune_operator.constants import DEFAULT_CLAIM


def test_a_star_in_a_uri_stands_for_the_files_that_it_matches(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "train-0.parquet").touch()

    def said(uri: str) -> list[str]:
        changes = {"spec.model.uri": "workspace://base", "spec.dataset.uri": uri}
        changes["spec.resources"] = {"gpusPerNode": 0}
        return faults(parse(manifest(**changes)).spec, {DEFAULT_CLAIM: tmp_path})

    assert said("workspace://train-*.parquet") == []
    assert said("workspace://test-*.parquet") == [
        f"spec.dataset.uri: 'workspace://test-*.parquet' is not there ({tmp_path}/test-*.parquet does not exist); "
        "is it train-0.parquet?"
    ]
