"""Every command in README and docs runs: here, in .ci/run, or on the cluster of tests/cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])
ELSEWHERE = {
    "finetune operator": "tests/cluster/conftest.py",
    "finetune crd | kubectl apply": "tests/cluster/conftest.py",
    "finetune watch": "tests/cluster/test_cli.py",
    "finetune logs": "tests/cluster/test_cli.py",
    "finetune submit": "tests/cluster/test_cli.py",
    "kubectl apply -f examples": "tests/cluster/test_training.py",
    "kubectl describe ftj": "tests/cluster/test_training.py",
    "make demo": ".ci/run",
    "make test-images": "tests/images/conftest.py",
    "make test": ".ci/run",
    "make images": "tests/images/test_images.py",
    "helm install": "tests/cluster/test_chart.py",
    "helm upgrade": "tests/cluster/test_chart.py",
    "helm rollback": "tests/cluster/test_chart.py",
    "helm uninstall": "tests/cluster/test_chart.py",
    "finetune run examples/": "benchmarks/examples.py",
}
"""What does not run here: how it begins, and the file that runs it."""


def commands() -> list[tuple[str, str]]:
    """(page, command) for each line of each fenced block that is marked sh."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("  #")[0].strip()
                if command and not command.startswith("#"):
                    found.append((str(page.relative_to(ROOT)), command))
    return found


def runner_of(command: str) -> str | None:
    return next((runner for start, runner in ELSEWHERE.items() if command.startswith(start)), None)


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value)
def test_a_command_in_the_documents_runs(page: str, command: str, tmp_path: Path) -> None:
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
