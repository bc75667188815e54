"""What Dockerfile and .dockerignore guarantee, checked without Docker."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = ("trainer", "operator")
OURS = {"operator", "trainer"}


@dataclass
class Stage:
    """One FROM with its instructions, whose continuation lines are joined."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def sources(self) -> list[str]:
        """Return what the stage's COPY instructions take from the build context."""
        copies = [text.split() for name, text in self.instructions if name == "COPY" and "--from=" not in text]
        return [word for words in copies for word in words[:-1] if not word.startswith("--")]


def stages() -> list[Stage]:
    """Return the stages of the Dockerfile, in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name.upper() == "FROM":
            base, _, alias = rest.split()
            found.append(Stage(alias, base))
        elif found:
            found[-1].instructions.append((name.upper(), rest.strip()))
    return found


def needed_by(stage: Stage, last: int | None = None) -> set[str]:
    """Return all files of the build context on which the stage depends, also through other stages.

    Only instructions before `last` count.
    """
    by_name = {other.name: other for other in stages()}
    part = Stage(stage.name, stage.base, stage.instructions[:last])
    others = {part.base, *re.findall(r"\bfrom=(\w+)", " ".join(text for _, text in part.instructions))}
    return set(part.sources()).union(*(needed_by(by_name[other]) for other in others if other in by_name))


def ignored(path: str) -> bool:
    """Return whether .dockerignore excludes the path: the last line that matches it or a parent folder decides."""
    candidates = [path, *map(str, PurePosixPath(path).parents)]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, candidate) for candidate in candidates):
            verdict = not line.startswith("!")
    return verdict


def stage_named(name: str) -> Stage:
    return next(stage for stage in stages() if stage.name == name)


def test_a_plain_build_makes_the_operator() -> None:
    assert stages()[-1].name == "operator"
    assert "trainer" in {stage.name for stage in stages()}


def test_every_stage_starts_from_the_base_that_may_be_chosen() -> None:
    names = {stage.name for stage in stages()}
    assert {stage.base for stage in stages()} - names == {"${BASE}"}


def test_nothing_is_fetched_but_by_package_managers() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not [name for stage in stages() for name, _ in stage.instructions if name == "ADD"]
    assert not re.search(r"\b(curl|wget)\b|^#\s*syntax=", text, flags=re.MULTILINE)


def test_everything_that_is_copied_exists_and_reaches_the_builder() -> None:
    sources = [source for stage in stages() for source in stage.sources()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_what_the_wheel_is_made_of_reaches_the_builder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = stage_named("package").sources()
    parts = [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    parts += [project["project"]["readme"], *project["project"]["license-files"]]
    for part in parts:
        assert any(part == source or part.startswith(f"{source}/") for source in copied), part


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "workspace/models/model.safetensors",
        ".env",
        "tests/images/test_dockerfile.py",
        "operator/finetune_operator/__pycache__/constants.cpython-311.pyc",
    ],
)
def test_what_is_no_part_of_the_wheel_stays_out_of_the_build(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_our_code_installs_no_dependency_anew(target: str) -> None:
    stage = stage_named(target)
    installs = [i for i, (name, text) in enumerate(stage.instructions) if name == "RUN" and " install " in text]
    assert installs
    assert needed_by(stage) >= OURS
    assert not OURS & needed_by(stage, installs[-1] + 1)


@pytest.mark.parametrize("target", TARGETS)
def test_the_result_runs_as_neither_root_nor_by_name(target: str) -> None:
    """Kubernetes can verify that a user is not root only if the user is a number."""
    assert [text for name, text in stage_named(target).instructions if name == "USER"] == ["65532:65532"]


def test_the_operator_uses_no_part_of_the_client_that_the_image_leaves_out() -> None:
    for path in (ROOT / "operator").rglob("*.py"):
        assert not re.search(r"\b\w+V\d+\w*Api\b|\bclient\.api\b", path.read_text()), path
