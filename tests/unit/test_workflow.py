"""The workflow on GitHub runs existing make targets, with pinned actions and few permissions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def workflow(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # YAML 1.1 reads `on` as true
    return loaded


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(file)["jobs"].values() for step in job["steps"]]


def test_check_test_and_e2e_run_on_every_push_and_pull_request() -> None:
    found = workflow(ROOT / ".github" / "workflows" / "ci.yaml")
    assert {"push", "pull_request"} <= set(found["on"])
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in found["jobs"].items()}
    assert "make check" in commands["check"]
    assert "make test" in commands["test"]
    assert any(command.startswith("make e2e") for command in commands["e2e"])


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_each_step_that_runs_something_runs_a_target_of_the_makefile(file: Path) -> None:
    for command in [step["run"] for step in steps(file) if "run" in step]:
        for line in command.splitlines():
            program, target, *_ = line.split()
            assert program == "make", line
            assert target in TARGETS, line


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_to_commits(file: Path) -> None:
    used = [step["uses"] for step in steps(file) if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_read_the_repository_and_nothing_else(file: Path) -> None:
    found = workflow(file)
    assert found["permissions"] == {"contents": "read"}
    assert [name for name, job in found["jobs"].items() if "permissions" in job] == []
