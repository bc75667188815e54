"""The helm command as users run it; the program is $HELM or the one in PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from finetune_operator.protocol import Object

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "finetune-operator"
CRD = CHART / "files" / "crds" / "finetunejobs.yaml"

VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
"""The version of the package, the chart and the images."""


class HelmError(Exception):
    """A helm command failed; the message is its stderr."""


class Helm:
    """Runs helm with one chart, by default the chart of this repository."""

    def __init__(self, program: str, chart: Path = CHART) -> None:
        self.program = program
        self.chart = chart

    def run(self, *arguments: str, values: Object | None = None) -> str:
        """Run one command and return its standard output. Raises HelmError."""
        command = [self.program, *arguments]
        if values is not None:
            command += ["--values", "-"]
        done = subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise HelmError(done.stderr)
        return done.stdout

    def render(self, values: Object | None = None, release: str = "rel", namespace: str = "ops") -> list[Object]:
        """Render all objects of a release without a cluster."""
        text = self.run("template", release, str(self.chart), "--namespace", namespace, values=values or {})
        return [found for found in yaml.safe_load_all(text) if found]


def helm_or_skip() -> Helm:
    """Return helm, or skip the test if it is not installed."""
    program = os.environ.get("HELM") or shutil.which("helm")
    if program is None:
        pytest.skip("needs helm: install it (https://helm.sh), or set HELM to the program")
    return Helm(program)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [found for found in objects if found["kind"] == kind]


def only(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (found,) = of_kind(objects, kind)
    return found
