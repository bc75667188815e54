"""The examples' manifests are valid, and their scripts always write the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJob

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {script.parent.name: script for script in EXAMPLES.glob("*/make_data.py")}
MANIFESTS = sorted(EXAMPLES.glob("*/*.yaml"))


def job(manifest: Path) -> FineTuneJob:
    return parse(yaml.safe_load(manifest.read_text()))


def make_data(example: str, folder: Path, hash_seed: int) -> dict[str, str]:
    """Run an example's script and return the sha256 of each file that it wrote, by path below the workspace."""
    pytest.importorskip("transformers", reason="pip install 'finetune-operator[trainer,dev]'")
    subprocess.run(
        [sys.executable, str(SCRIPTS[example]), "--workspace", str(folder)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", params=SCRIPTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make_data(request.param, folder, hash_seed=1)


def test_there_is_an_example_of_each_field() -> None:
    assert set(SCRIPTS) == {"contracts", "clinical-notes", "shop"}
    assert {job(manifest).spec.task for manifest in MANIFESTS} == {
        "CausalLM",
        "SequenceClassification",
        "ImageClassification",
    }


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_an_example_is_a_valid_job_that_a_laptop_can_run(manifest: Path) -> None:
    assert job(manifest).spec.resources.gpus_per_node == 0


@pytest.mark.parametrize("example", SCRIPTS)
def test_a_readme_names_every_manifest_of_its_example(example: str) -> None:
    readme = (EXAMPLES / example / "README.md").read_text()
    assert f"python examples/{example}/make_data.py --workspace workspace" in readme
    for manifest in (EXAMPLES / example).glob("*.yaml"):
        assert f"finetune run examples/{example}/{manifest.name} --workspace workspace" in readme


def test_a_script_writes_the_same_bytes_twice(made: tuple[str, Path, dict[str, str]], tmp_path: Path) -> None:
    example, _, digests = made
    assert make_data(example, tmp_path, hash_seed=2) == digests


def test_a_script_writes_what_its_manifests_name(made: tuple[str, Path, dict[str, str]]) -> None:
    example, folder, _ = made
    for manifest in (EXAMPLES / example).glob("*.yaml"):
        spec = job(manifest).spec
        for uri in filter(None, (spec.model.uri, spec.dataset.uri, spec.dataset.evaluation.uri)):
            assert (folder / uri.removeprefix("workspace://")).exists(), uri
        assert (folder / spec.model.uri.removeprefix("workspace://") / "config.json").exists()


def test_the_clauses_are_varied_and_no_type_is_rare(tmp_path: Path) -> None:
    make_data("contracts", tmp_path, hash_seed=1)
    rows = [json.loads(line) for line in (tmp_path / "contracts/train.jsonl").read_text().splitlines()]
    assert len({row["clause"] for row in rows}) > 0.8 * len(rows)
    types = Counter(row["type"] for row in rows)
    assert len(types) == 8
    assert min(types.values()) > len(rows) / 16
