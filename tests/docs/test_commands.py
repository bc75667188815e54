"""Every command in the README and in docs is run: by these tests, in .ci/run, or on the cluster of tests/cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs import pages
from docs.pages import PAGES, ROOT

ELSEWHERE = {
    "finetune operator": "tests/cluster/conftest.py",
    "finetune crd | kubectl apply": "tests/cluster/conftest.py",
    "finetune watch": "tests/cluster/test_cli.py",
    "finetune logs": "tests/cluster/test_cli.py",
    "finetune submit": "tests/cluster/test_cli.py",
    "kubectl apply --server-side -n argocd": "tests/cluster/test_gitops.py",
    "kubectl apply -f examples": "tests/cluster/test_training.py",
    "kubectl describe ftj": "tests/cluster/test_training.py",
    "make demo": ".ci/run",
    "make test-images": "tests/images/conftest.py",
    "make test": ".ci/run",
    "make models": "tests/trainer/test_models_table.py",
    "make images": "tests/images/test_images.py",
    "make push": "tests/unit/test_push.py",
    "helm install": "tests/cluster/test_chart.py",
    "helm upgrade": "tests/cluster/test_chart_upgrade.py",
    "helm rollback": "tests/cluster/test_chart_upgrade.py",
    "helm uninstall": "tests/cluster/test_chart_upgrade.py",
    "finetune run examples/": "benchmarks/examples.py",
}
"""The commands that do not run here: their beginning, and the file that runs them."""
WHOLE_PAGES = {
    "docs/quickstart.md": "tests/e2e/quickstart.py",
    "docs/tutorials/clinical-notes.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/cluster.md": "tests/cluster/test_tutorials.py",
    "docs/tutorials/contracts.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/shop.md": "tests/docs/test_tutorials.py",
}
"""The pages whose commands another file reads and runs in order, and that file."""


def commands() -> list[tuple[str, str]]:
    """Return (page, command) for each command in the documents."""
    return [(str(page.relative_to(ROOT)), command) for page in PAGES for command in pages.commands(page)]


def runner_of(command: str) -> str | None:
    return next((runner for start, runner in ELSEWHERE.items() if command.startswith(start)), None)


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value)
def test_a_command_in_the_documents_runs(page: str, command: str, tmp_path: Path) -> None:
    if reader := WHOLE_PAGES.get(page):
        assert Path(page).name in (ROOT / reader).read_text()
        return
    if runner := runner_of(command):
        verb = " ".join(shlex.split(command)[:2])
        text = (ROOT / runner).read_text()
        assert all(word in text for word in verb.split()), f"{runner} does not run: {command}"
        return
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = command.replace("--workspace workspace", f"--workspace {tmp_path}")
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr or done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_in_the_documents_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
