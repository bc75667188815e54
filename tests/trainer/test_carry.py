"""The folder that benchmarks/gpu/carry.sh makes for a lent GPU machine.

It is small enough to travel, and contains everything that the machine lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from gpu_day.carried import LIMIT, MACHINE, PINS, read_machine, read_pins, tracked_bytes
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "carry.sh"
PACKAGES = (ROOT / "operator", ROOT / "trainer")
INTERPRETER = "FINETUNE_GPU_PYTHON"
OLDEST = {"torch": "2.11", "transformers": "5.17"}
VERSIONS = """
import json, sys
from importlib.metadata import version

print(json.dumps([sys.version_info[:2], {name: version(name) for name in sys.argv[1:]}]))
"""
IMPORTS = """
import importlib, importlib.metadata, json, pkgutil, sys
import finetune_trainer

trainer = pkgutil.walk_packages(finetune_trainer.__path__, "finetune_trainer.")
for name in [*(module.name for module in trainer), "finetune_operator.cli.run"]:
    importlib.import_module(name)
providers = importlib.metadata.packages_distributions()
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted({provider for name in loaded for provider in providers.get(name, ())})))
"""
"""A script that imports every module of the trainer and prints which distributions were needed."""


def carry(folder: Path) -> str:
    done = subprocess.run([SCRIPT, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that carry.sh has made; an old wheel of one package was in it before."""
    folder = tmp_path_factory.mktemp("carried")
    (folder / "kopf-1.0.0-py3-none-any.whl").touch()
    carry(folder)
    return folder


@pytest.fixture(scope="module")
def interpreter() -> str:
    """Return a Python 3.12 with the packages of a lent GPU machine."""
    python = os.environ.get(INTERPRETER)
    if python is None:
        pytest.skip(f"set {INTERPRETER} to a Python 3.12 that has torch, transformers and the rest of {MACHINE.name}")
    try:
        done = subprocess.run([python, "-c", VERSIONS, *OLDEST], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"{INTERPRETER} is {python}, which does not start: {error.strerror}; set it to a Python 3.12")
    if done.returncode:
        pytest.skip(f"{INTERPRETER} is {python}, which lacks {' or '.join(OLDEST)}; install them there")
    python_version, versions = json.loads(done.stdout)
    if python_version != [3, 12] or any(Version(versions[name]) < Version(old) for name, old in OLDEST.items()):
        oldest = " and ".join(f"{name} {version}" for name, version in OLDEST.items())
        pytest.skip(f"{INTERPRETER} is {python}; set it to a Python 3.12 with at least {oldest}")
    return python


def versions_in(folder: Path) -> list[tuple[str, Version]]:
    return sorted(parse_wheel_filename(wheel.name)[:2] for wheel in folder.glob("*.whl"))


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Return the names, sizes and modification times of the wheels."""
    stats = [(wheel.name, wheel.stat()) for wheel in folder.glob("*.whl")]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def test_the_wheels_travel_with_the_repository(carried: Path) -> None:
    wheels = sum(wheel.stat().st_size for wheel in carried.glob("*.whl"))
    assert 0 < wheels + tracked_bytes(ROOT) < LIMIT == 60_000_000


def test_each_package_is_carried_once_and_at_its_pinned_version(carried: Path) -> None:
    versions = versions_in(carried)
    pins = read_pins((ROOT / PINS).read_text())
    assert dict(versions) == {name: pins[name] for name, _ in versions}
    assert len(dict(versions)) == len(versions)
    assert {"datasets", "deepspeed", "kopf", "kubernetes", "pydantic", "pydantic-core"} <= dict(versions).keys()


def test_deepspeed_has_nothing_compiled(carried: Path) -> None:
    (wheel,) = carried.glob("deepspeed-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_commit_is_told(carried: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (carried / "commit").read_text().strip().removesuffix("+changes") == head.strip()


def test_a_second_call_fetches_nothing_and_ends_with_the_same(carried: Path) -> None:
    before = state_of(carried)
    carry(carried)
    assert state_of(carried) == before


def test_without_an_index_the_package_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run([SCRIPT, tmp_path / "wheels"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("carry.sh: the index could give no wheel for Python 3.12 on x86-64 of kopf==")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "wheels" / "commit").exists()


def test_without_a_folder_the_usage_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in ([], [tmp_path / "file"], [tmp_path, tmp_path]):
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "benchmarks/gpu/carry.sh DIR" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_trainer_and_its_command_start_with_the_wheels_and_what_the_machine_has(
    carried: Path, interpreter: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    installed = subprocess.run([*pip, "--target", site, *sorted(carried.glob("*.whl"))], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in (site, *PACKAGES))}
    done = subprocess.run([interpreter, "-c", IMPORTS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used = {canonicalize_name(name) for name in json.loads(done.stdout.splitlines()[-1])}
    there = read_machine(MACHINE.read_text()).keys() | dict(versions_in(carried)).keys()
    assert used <= there, "these are in the interpreter, but neither on the machine nor carried"
