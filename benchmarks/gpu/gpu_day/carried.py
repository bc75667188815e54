"""Finds the wheels that a lent GPU machine lacks, fetches them into one folder and checks their size.

Such a machine has torch and transformers, listed in machine.txt, but no network. All other requirements of the project
must be copied to it together with the repository. carry.sh is the command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[3]
MACHINE = ROOT / "benchmarks" / "gpu" / "machine.txt"
PROJECT = "pyproject.toml"
PINS = "constraints.txt"
EXTRA = "trainer"

PYTHON = (3, 12)
GLIBC_MINORS = range(39, 4, -1)
"""The minor versions of glibc whose wheels the machine accepts; it has glibc 2.39. pip does not derive the older
versions, so all are named."""
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
FULL_VERSION = "3.12.3"
ENVIRONMENT: Mapping[str, str] = {
    "python_version": "3.12",
    "python_full_version": FULL_VERSION,
    "implementation_name": "cpython",
    "implementation_version": FULL_VERSION,
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_release": "",
    "platform_version": "",
}
"""The machine's environment, for which markers are evaluated on every machine."""

BUILT: Mapping[str, Mapping[str, str]] = {"deepspeed": {"DS_BUILD_OPS": "0"}}
"""The packages that have no wheels on the index. Each is built with environment variables that leave out compiled
code."""
MEGABYTE = 1_000_000
LIMIT = 60 * MEGABYTE
"""The most bytes that can be copied at once: the repository and the wheels together."""


class CarryError(Exception):
    """An error whose message is one sentence for the user."""


@dataclass(frozen=True)
class Package:
    """A wheel and the requirements in its METADATA."""

    name: str
    version: Version
    requirements: tuple[Requirement, ...] = ()
    wheel: str = ""
    """The name of the wheel's file."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Wanted:
    """A requirement, and the package or file that has it."""

    requirement: Requirement
    by: str

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


Machine = Mapping[str, Version | None]
"""The packages of the machine by name, with their versions; None if a version is not known."""
Fetch = Callable[[Requirement], Package]


def read_machine(text: str) -> dict[str, Version | None]:
    """Parse machine.txt.

    Each line is a name or name==version; a comment begins with #. Raises CarryError if a name occurs twice.
    """
    machine: dict[str, Version | None] = {}
    for number, name, version in _lines(text, MACHINE.name):
        if name in machine:
            raise CarryError(f"{MACHINE.name}, line {number}, names {name} a second time")
        machine[name] = version
    return machine


def read_pins(text: str) -> dict[str, Version]:
    """Parse the constraints: each line is name==version."""
    return {name: version for _, name, version in _lines(text, PINS) if version is not None}


def _lines(text: str, file: str) -> Iterator[tuple[int, str, Version | None]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not (content := line.partition("#")[0].strip()):
            continue
        try:
            requirement = Requirement(content)
        except InvalidRequirement:
            raise CarryError(f"{file}, line {number}, is neither a name nor name==version: {content}") from None
        yield number, canonicalize_name(requirement.name), _exact(requirement.specifier, f"{file}, line {number},")


def _exact(specifiers: SpecifierSet, where: str) -> Version | None:
    if not specifiers:
        return None
    (first, *others) = specifiers
    if others or first.operator != "==" or first.version.endswith(".*"):
        raise CarryError(f"{where} gives a range of versions instead of one: {specifiers}")
    return Version(first.version)


def project_requirements(text: str) -> list[Wanted]:
    """Return what the project requires on the machine: its dependencies and those of its trainer."""
    project = tomllib.loads(text)["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][EXTRA]]
    requirements = tuple(Requirement(line) for line in lines)
    return [Wanted(requirement, PROJECT) for requirement in applicable(requirements, "")]


def applicable(requirements: Iterable[Requirement], extra: str) -> list[Requirement]:
    """Return the requirements that apply on the machine; for an extra, only those that it adds."""
    return [one for one in requirements if _holds(one, extra) and not (extra and _holds(one, ""))]


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**ENVIRONMENT, "extra": extra})


def closure(first: Iterable[Wanted], machine: Machine, fetch: Fetch) -> dict[str, Package]:
    """Return all packages that must be carried, by name, with everything that they require and the machine lacks.

    The machine's own packages work there. Their requirements are followed only for extras that a carried package needs.
    """
    carried: dict[str, Package] = {}
    followed: set[tuple[str, str]] = set()
    queue = deque(first)
    while queue:
        wanted = queue.popleft()
        name, extras = wanted.name, sorted(wanted.requirement.extras)
        if name in machine:
            check_machine(wanted, machine[name])
            package = fetch(wanted.requirement) if extras else None
        else:
            if name not in carried:
                carried[name] = fetch(wanted.requirement)
            package = carried[name]
            check_carried(wanted, package)
            extras = ["", *extras]
        for extra in extras:
            if package is not None and (name, extra) not in followed:
                followed.add((name, extra))
                queue.extend(Wanted(one, str(package)) for one in applicable(package.requirements, extra))
    return carried


def check_machine(wanted: Wanted, version: Version | None) -> None:
    """Raise CarryError if the machine's version does not meet the requirement. An unknown version is accepted."""
    if version is not None and not _contains(wanted.requirement, version):
        raise CarryError(f"{_needs(wanted)}, but the machine has {wanted.name} {version}")


def check_carried(wanted: Wanted, package: Package) -> None:
    """Raise CarryError if the carried version does not meet the requirement: only one version can be carried."""
    if not _contains(wanted.requirement, package.version):
        raise CarryError(f"{_needs(wanted)}, but {package} would be carried; {PINS} decides its version")


def _needs(wanted: Wanted) -> str:
    return f"{wanted.by} needs {wanted.name}{wanted.requirement.specifier}"


def _contains(requirement: Requirement, version: Version) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def chosen(requirement: Requirement, pins: Mapping[str, Version]) -> Requirement:
    """Return the requirement with the pinned version, with which the tests pass, if there is one."""
    name = canonicalize_name(requirement.name)
    return Requirement(f"{name}=={pins[name]}" if name in pins else f"{name}{requirement.specifier}")


@cache
def machine_tags() -> frozenset[Tag]:
    """Return the tags of the wheels that the machine's Python can install."""
    interpreter = f"cp{PYTHON[0]}{PYTHON[1]}"
    own = cpython_tags(PYTHON, platforms=PLATFORMS)
    return frozenset((*own, *compatible_tags(PYTHON, interpreter, PLATFORMS)))


def fits(wheel: str, requirement: Requirement) -> bool:
    """Return whether a wheel, by the name of its file, meets the requirement on the machine."""
    try:
        name, version, _, tags = parse_wheel_filename(wheel)
    except InvalidWheelFilename:
        return False
    is_wanted = name == canonicalize_name(requirement.name) and _contains(requirement, version)
    return is_wanted and not machine_tags().isdisjoint(tags)


def read_package(wheel: Path) -> Package:
    """Return the package of a wheel.

    Raises BadZipFile for an incomplete wheel, and CarryError if it needs another Python.
    """
    name, version, _, _ = parse_wheel_filename(wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (one for one in archive.namelist() if one.count("/") == 1 and one.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(member).decode())
    if not SpecifierSet(metadata.get("Requires-Python", "")).contains(FULL_VERSION):
        raise CarryError(f"{name} {version} needs Python {metadata['Requires-Python']}, but the machine has 3.12")
    requirements = tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", []))
    return Package(name, version, requirements, wheel.name)


def fetch(requirement: Requirement, folder: Path, pins: Mapping[str, Version]) -> Package:
    """Fetch the package's wheel into the folder, unless an earlier call has fetched it."""
    wanted = chosen(requirement, pins)
    if found := kept(wanted, folder):
        return found
    # An interrupted download must not look like a wheel to the next call.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as scratch:
        _pip(_arguments(wanted, Path(scratch)), wanted, BUILT.get(wanted.name, {}))
        (wheel,) = Path(scratch).glob("*.whl")
        if not fits(wheel.name, wanted):
            raise CarryError(f"{wheel.name} was made for this machine only, and would not install on the other one")
        wheel.replace(folder / wheel.name)
    return read_package(folder / wheel.name)


def kept(requirement: Requirement, folder: Path) -> Package | None:
    """Return the newest wheel of earlier calls that meets the requirement, if there is one."""
    found: list[Package] = []
    for wheel in folder.glob("*.whl"):
        if fits(wheel.name, requirement):
            try:
                found.append(read_package(wheel))
            except zipfile.BadZipFile:
                wheel.unlink()
    return max(found, key=lambda package: package.version, default=None)


def _arguments(wanted: Requirement, folder: Path) -> list[str]:
    if wanted.name in BUILT:
        # pip's cache may contain a wheel with compiled code.
        return ["wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", str(folder), str(wanted)]
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    version = f"{PYTHON[0]}.{PYTHON[1]}"
    target = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", *platforms]
    return ["download", "--no-deps", *target, "--dest", str(folder), str(wanted)]


def _pip(arguments: Sequence[str], wanted: Requirement, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise CarryError(unavailable(wanted, done.stderr))


def unavailable(wanted: Requirement, words: str) -> str:
    """Return the message about a package that pip could not get, with the last line of pip's output."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    last = lines[-1].removeprefix("ERROR: ") if lines else "it said nothing"
    what = "no source of" if wanted.name in BUILT else "no wheel for Python 3.12 on x86-64 of"
    pinned = f", which {PINS} pins" if "==" in str(wanted.specifier) else ""
    return f"the index could give {what} {wanted}{pinned}; pip's last line: {last}"


def remove_others(folder: Path, wheels: Iterable[str]) -> None:
    """Remove all other wheels: two versions of a package would stop the whole installation."""
    wanted = set(wheels)
    for wheel in folder.glob("*.whl"):
        if wheel.name not in wanted:
            wheel.unlink()


def tracked_bytes(root: Path) -> int:
    """Return the size of the repository's files that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        raise CarryError(f"{root} is no git repository, so what would travel with the wheels cannot be weighed")
    paths = (root / name for name in listed.stdout.split("\0") if name)
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())


def check_size(wheels: int, repository: int) -> None:
    """Raise CarryError if the wheels and the repository are too large to be copied together."""
    if wheels + repository > LIMIT:
        raise CarryError(
            f"the wheels have {megabytes(wheels)} and the repository {megabytes(repository)}, together more than the "
            f"{megabytes(LIMIT)} that can travel"
        )


def megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.2f} MB"


def table(sizes: Mapping[str, int], repository: int) -> str:
    """Render a line for each wheel and then the totals."""
    total = sum(sizes.values())
    rows = [*((name, sizes[name]) for name in sorted(sizes)), (f"{len(sizes)} wheels", total)]
    rows += [("the repository's tracked files", repository), ("together", total + repository)]
    return "\n".join(f"{megabytes(size):>10}  {name}" for name, size in rows)


def carry(folder: Path) -> None:
    """Make the folder contain the needed wheels and no others."""
    repository = tracked_bytes(ROOT)
    machine = read_machine(MACHINE.read_text())
    pins = read_pins((ROOT / PINS).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    first = project_requirements((ROOT / PROJECT).read_text())
    packages = closure(first, machine, lambda requirement: fetch(requirement, folder, pins))
    remove_others(folder, (package.wheel for package in packages.values()))
    sizes = {package.wheel: (folder / package.wheel).stat().st_size for package in packages.values()}
    print(table(sizes, repository))
    check_size(sum(sizes.values()), repository)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry the wheels. A user's error becomes one sentence on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="carry.sh", description="Fetch the wheels that a lent GPU machine lacks.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="its other wheels are removed")
    try:
        carry(parser.parse_args(arguments).folder)
    except (CarryError, OSError) as error:
        print(f"carry.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
