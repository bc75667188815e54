"""The table of licences, and `make audit`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
needs_trainer = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the extra `trainer`: make setup"
)


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate_licences", ROOT / "docs" / "generate_licences.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def rows() -> dict[str, list[str]]:
    """Return the page's table: version, licence and images by package."""
    page = (ROOT / "docs" / "licences.md").read_text()
    found = re.findall(r"^\| ([a-z0-9-]+) \| (\d\S* \| .*) \|$", page, re.M)
    return {name: cells.split(" | ") for name, cells in found}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


@needs_trainer
def test_no_dependency_has_a_licence_outside_the_allow_list(licences: ModuleType) -> None:
    found = licences.packages()
    assert len(found) > 100
    assert all(licences.is_allowed(package.licence) for package in found)


def test_the_page_lists_no_licence_outside_the_allow_list(licences: ModuleType) -> None:
    assert rows()
    assert all(licences.is_allowed(licence) for _, licence, _ in rows().values())


@needs_trainer
def test_the_page_lists_exactly_the_pinned_packages_that_the_product_depends_on(licences: ModuleType) -> None:
    if "+" in version("torch"):
        pytest.skip(
            "this torch is not the one of PyPI, whose dependencies the page lists; run make setup without an index"
        )
    needed = licences.required(["trainer"])
    assert set(rows()) == set(needed)
    assert {name: cells[0] for name, cells in rows().items()} == {name: pinned()[name] for name in needed}
    operator = licences.required()
    assert {name for name, cells in rows().items() if "operator" in cells[2]} == set(operator)
    assert "torch" not in operator
    assert "kopf" in operator


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("AGPL-3.0-or-later", False),
        ("", False),
    ],
)
def test_an_expression_is_allowed_if_one_of_its_alternatives_is(
    licences: ModuleType, expression: str, allowed: bool
) -> None:
    assert licences.is_allowed(expression) is allowed


@pytest.mark.parametrize(
    ("said", "code", "ends", "told"),
    [
        ("No known vulnerabilities found", 0, 0, "No known"),
        ("Found 1 known vulnerability in 1 package", 1, 2, "Found 1"),
        (
            "ERROR:pip_audit._cli:absl-py: Dependency not found on PyPI and could not be audited",
            1,
            2,
            "none was checked",
        ),
        ("Traceback: ConnectionError", 1, 2, "none was checked"),
    ],
)
def test_an_audit_that_checked_nothing_does_not_pretend_success(
    tmp_path: Path, said: str, code: int, ends: int, told: str
) -> None:
    for name, script in {"python": "exit 0", "pip-audit": f"echo '{said}' >&2; exit {code}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    make = ["make", "--old-file=.venv/.ready", "audit", f"BIN={tmp_path}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert done.returncode == ends, done.stdout + done.stderr
    assert told in done.stdout
