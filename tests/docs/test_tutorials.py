"""The tutorials contracts.md, clinical-notes.md and shop.md are correct.

The tests run their steps on this machine, check that their fragments make valid manifests, and check the messages that
they give for typical mistakes. tests/cluster/test_tutorials.py runs their commands for a cluster and those of
cluster.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.pages import PAGES, ROOT, TUTORIALS, blocks, commands, needs_cluster
from support.clusters import NOW
from support.manifests import changed

from finetune_operator.api.parse import parse
from finetune_operator.cli.main import main
from finetune_operator.core.run.resolve import run_config
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings

MANIFEST_OF = {"contracts": "job.yaml", "clinical-notes": "job.yaml", "shop": "products.yaml"}
"""The manifest that a tutorial's fragments change."""


def by_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_python(block: str, folder: Path) -> None:
    """Run a block of Python and compare its output with the comments behind its prints."""
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    if expected:
        assert done.stdout.splitlines() == expected
    else:
        assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TUTORIALS, ids=by_name)
def test_a_tutorial_leads_to_a_model_that_python_loads(page: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    local = [command for command in commands(page) if not needs_cluster(command)]
    assert any(command.startswith("finetune run") for command in local)
    for command in local:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr or done.stdout}"
    python = blocks(page, "python")
    assert python
    for block in python:
        run_python(block, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS], ids=by_name)
def test_python_in_the_other_documents_runs(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "python"):
        run_python(block, tmp_path)


@pytest.mark.parametrize("page", TUTORIALS, ids=by_name)
def test_a_tutorial_s_fragments_make_valid_manifests(page: Path, tmp_path: Path) -> None:
    fragments = [yaml.safe_load(block) for block in blocks(page, "yaml")]
    assert fragments
    for fragment in fragments:
        job = example(page.stem)
        job["spec"] |= fragment["spec"]
        assert main(["validate", written(tmp_path, job)]) == 0


# ---- typical mistakes -----------------------------------------------------------------------------------------------


def example(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "examples" / name / MANIFEST_OF[name]).read_text())
    return manifest


def written(folder: Path, job: dict[str, Any]) -> str:
    file = folder / "job.yaml"
    file.write_text(json.dumps(job))
    return str(file)


def lines(*rows: dict[str, str]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@dataclass(frozen=True)
class Mistake:
    """A typical mistake: changes to a tutorial's manifest and to the files in its workspace."""

    tutorial: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    without: str | None = None
    """A pattern for the files of the example that are missing."""


CLAUSE = {"clause": "The courts of Vienna have jurisdiction.", "type": "governing law"}
NOTE = {"note": "Note: fever.\nSummary: ", "summary": "complaint: fever"}
CLAUSES, NOTES = "contracts/train.jsonl", "clinical-notes/train.jsonl"
INTENTS = {
    "spec.task": "SequenceClassification",
    "spec.model.uri": "workspace://models/small-bert",
    "spec.dataset.uri": "workspace://shop/sessions.csv",
    "spec.dataset.columns": {"text": "events", "label": "intent"},
}
OF_MANIFEST = (
    Mistake("contracts", "a number in quotes", {"spec.training.epochs": "3"}),
    Mistake("contracts", "the path is mistyped", {"spec.dataset.uri": "workspace://contracts/trian.jsonl"}),
    Mistake("clinical-notes", "a prompt without its completion", {"spec.dataset.columns": {"prompt": "note"}}),
    Mistake("clinical-notes", "a metric of another task", {"spec.evaluate": {"metrics": ["accuracy"]}}),
    Mistake("shop", "a sequence length for pictures", {"spec.training.sequenceLength": 64}),
)
OF_DATA = (
    Mistake("contracts", "the column has another name", {"spec.dataset.columns.text": "text"}),
    Mistake("contracts", "a row without a label", files={CLAUSES: lines(CLAUSE, CLAUSE | {"type": ""})}),
    Mistake("contracts", "a line that is no JSON", files={CLAUSES: lines(CLAUSE) + b'{"clause": "Vienna" "type": 1}'}),
    Mistake(
        "contracts",
        "a folder with all splits",
        {"spec.dataset.uri": "workspace://contracts"},
        {CLAUSES: lines(CLAUSE), "contracts/test.jsonl": lines(CLAUSE)},
    ),
    Mistake(
        "clinical-notes",
        "chats for a model without a template",
        {"spec.dataset.columns": {"messages": "chat"}, "spec.dataset.evaluation": {"fraction": 0.5}},
        {NOTES: b"".join(lines({"chat": [{"role": "assistant", "content": str(n)}]}) for n in range(20))},
    ),
    Mistake("clinical-notes", "prompts longer than a row may be", {"spec.training.sequenceLength": 8}),
    Mistake("clinical-notes", "an empty answer", files={NOTES: lines(NOTE, NOTE | {"summary": ""})}),
    Mistake("shop", "a broken picture", files={"shop/pictures/mug/001.png": b"no picture"}),
    Mistake("shop", "all pictures in one folder", without="shop/pictures/[!m]*/*.png"),
    Mistake(
        "shop", "a comma in a CSV cell", INTENTS, {"shop/sessions.csv": b"events,intent\nhome,buy\nhome,leave,buy\n"}
    ),
    Mistake("shop", "a text model for pictures", {"spec.model.uri": "workspace://models/small-bert"}),
)


def sentences() -> dict[tuple[str, str], str]:
    """Return the message that a tutorial gives for each (tutorial, mistake)."""
    found = {}
    for page in TUTORIALS:
        table = page.read_text().partition("## Typical mistakes")[2]
        for mistake, sentence in re.findall(r"^\| ([^|]+) \| `(.*)` \|$", table, re.MULTILINE):
            found[page.stem, mistake] = sentence
    return found


def assert_told(mistake: Mistake, said: str) -> None:
    """Assert that the tutorial gives this message. In it, … represents text that differs between machines."""
    sentence = sentences()[mistake.tutorial, mistake.name]
    assert re.search(".*".join(map(re.escape, sentence.split("…"))), said), f"{said!r} is not what the page says"


def test_every_mistake_in_the_tutorials_is_made_here() -> None:
    assert sentences().keys() == {(mistake.tutorial, mistake.name) for mistake in OF_MANIFEST + OF_DATA}


@pytest.mark.parametrize("mistake", OF_MANIFEST, ids=lambda mistake: mistake.name)
def test_a_mistake_in_the_manifest_gets_the_tutorial_s_sentence(mistake: Mistake, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "models" / "minilm").mkdir(parents=True)
    (workspace / CLAUSES).parent.mkdir()
    (workspace / CLAUSES).touch()
    file = written(tmp_path, changed(example(mistake.tutorial), mistake.changes))
    command = [sys.executable, "-m", "finetune_operator.cli.main", "run", file, "--workspace", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert_told(mistake, done.stderr)


@pytest.fixture(scope="session")
def example_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes the files of an example once and returns their folder."""

    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        script = ROOT / "examples" / name / "make_data.py"
        subprocess.run([sys.executable, str(script), "--workspace", str(folder)], check=True, env=environment())
        return folder

    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mistake", OF_DATA, ids=lambda mistake: mistake.name)
def test_a_mistake_in_the_data_gets_the_tutorial_s_sentence(
    mistake: Mistake, tmp_path: Path, example_workspace: Callable[[str], Path]
) -> None:
    pytest.importorskip("transformers", reason="pip install 'finetune-operator[trainer,dev]'")
    from finetune_trainer.errors import InvalidError
    from finetune_trainer.model.prepare import prepare
    from finetune_trainer.pod.paths import Paths

    workspace = tmp_path / "workspace"
    shutil.copytree(example_workspace(mistake.tutorial), workspace)
    for path in workspace.glob(mistake.without) if mistake.without else ():
        path.unlink()
    for name, content in mistake.files.items():
        (workspace / name).write_bytes(content)
    job = parse(changed(example(mistake.tutorial), {**mistake.changes, "metadata.uid": "0b5e7d2a"}))
    settings = Settings(image="trainer")
    config = run_config(job, next_run(job, 1, settings, "nonce", NOW), settings)
    with pytest.raises(InvalidError) as refused:
        prepare(config, Paths(workspace, tmp_path / "claims", tmp_path / "scratch"))
    assert_told(mistake, str(refused.value))
