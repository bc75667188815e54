"""`make release` makes everything but the images, with a stand-in for Docker that records its arguments.

The version is the same everywhere, because only pyproject.toml contains it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from support.helm import VERSION, helm_or_skip

ROOT = Path(__file__).parents[2]
DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_LOG"
case "$1 $2" in
  "image inspect") echo sha256:0123 ;;
  "save --output") echo archive > "$3" ;;
esac
"""
NO_ENGINE = "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n"


def make(folder: Path, *arguments: str, docker: str = DOCKER) -> subprocess.CompletedProcess[str]:
    """Run make with this Python instead of that of .venv, and with this stand-in for Docker."""
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(docker)
    program.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "DOCKER_LOG": str(folder / "docker.log"),
    }
    variables = [f"BIN={Path(sys.executable).parent}", f"DIST={folder / 'dist'}"]
    command = ["make", "--old-file=.venv/.ready", *arguments, *variables]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a release once and return the folder with its dist/ and docker.log."""
    folder = tmp_path_factory.mktemp("release")
    done = make(folder, "release", f"HELM={helm_or_skip().program}")
    assert done.returncode == 0, done.stderr
    return folder


def told(folder: Path) -> list[str]:
    return (folder / "docker.log").read_text().splitlines()


def test_a_release_is_wheel_sources_chart_images_and_checksums(released: Path) -> None:
    assert {path.name for path in (released / "dist").iterdir()} == {
        f"finetune_operator-{VERSION}-py3-none-any.whl",
        f"finetune_operator-{VERSION}.tar.gz",
        f"finetune-operator-{VERSION}.tgz",
        "images.txt",
        "SHA256SUMS",
    }


def test_the_checksums_are_those_of_all_other_files(released: Path) -> None:
    dist = released / "dist"
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(dist.iterdir())) - 1


def test_the_images_are_built_and_recorded_and_nothing_is_published(released: Path) -> None:
    builds = [line for line in told(released) if line.startswith("build ")]
    assert [re.findall(r"--target (\w+)", line) for line in builds] == [["operator"], ["trainer"]]
    assert {line.split()[0] for line in told(released)} == {"version", "build", "image"}
    assert (released / "dist" / "images.txt").read_text().splitlines() == [
        f"finetune-operator:{VERSION} sha256:0123",
        f"finetune-trainer:{VERSION} sha256:0123",
    ]


def test_archives_of_the_images_are_made_when_asked_for(tmp_path: Path) -> None:
    done = make(tmp_path, "release", f"HELM={helm_or_skip().program}", "ARCHIVES=1")
    assert done.returncode == 0, done.stderr
    assert f"images-{VERSION}.tar" in (tmp_path / "dist" / "SHA256SUMS").read_text()


def test_the_wheel_has_both_packages_and_the_license(released: Path) -> None:
    names = zipfile.ZipFile(next(released.glob("dist/*.whl"))).namelist()
    assert {"finetune_operator/cli/main.py", "finetune_trainer/agent/__main__.py"} <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"finetune_operator", "finetune_trainer"}


def test_the_sources_have_what_a_build_needs_and_nothing_that_was_made(released: Path) -> None:
    with tarfile.open(next(released.glob("dist/*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "Dockerfile", "operator/finetune_operator/cli/main.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist", "workspace"))]


@pytest.mark.parametrize(
    ("arguments", "docker", "sentence"),
    [
        (["HELM=no-helm"], DOCKER, "make release: no-helm is not there; install it"),
        (["HELM=true"], NO_ENGINE, "make release: no Docker engine answers; start one"),
    ],
    ids=["helm", "docker"],
)
def test_what_is_missing_is_one_sentence_and_nothing_is_made(
    arguments: list[str], docker: str, sentence: str, tmp_path: Path
) -> None:
    done = make(tmp_path, "release", *arguments, docker=docker)
    assert done.returncode != 0
    (said,) = done.stdout.splitlines()
    assert said.startswith(sentence)
    assert not (tmp_path / "dist").exists()


# ---- one version ----------------------------------------------------------------------------------------------------


def test_finetune_says_the_version() -> None:
    command = [sys.executable, "-m", "finetune_operator.cli.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"finetune {VERSION}\n"), "install again: make setup"


def test_the_chart_in_the_release_is_of_the_version_and_so_are_its_images(released: Path) -> None:
    with tarfile.open(next(released.glob("dist/*.tgz"))) as archive:
        file = archive.extractfile("finetune-operator/Chart.yaml")
        assert file is not None
        chart = yaml.safe_load(file)
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    labels = [re.findall(r"--build-arg VERSION=(\S+)", line) for line in told(released) if line.startswith("build ")]
    assert labels == [[VERSION], [VERSION]]


def test_the_chart_s_version_is_generated() -> None:
    (rule,) = re.findall(r"^generate:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "Chart.yaml" in rule, "make generate writes the version into the chart"


def test_the_documents_name_images_of_this_version() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for found in re.findall(r"finetune-(?:operator|trainer):(\d+\.\d+\.\d+)", page.read_text()):
            assert found == VERSION, page


def test_the_changelog_tells_of_this_version() -> None:
    releases = re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] in (VERSION, "Unreleased")
    assert VERSION in releases
