"""The wheels that a lent GPU machine lacks are derived from the requirements, and conflicts are reported."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from gpu_day import carried
from gpu_day.carried import (
    LIMIT,
    MACHINE,
    ROOT,
    CarryError,
    Machine,
    Package,
    Wanted,
    applicable,
    check_size,
    chosen,
    closure,
    fetch,
    fits,
    kept,
    project_requirements,
    read_machine,
    read_package,
    read_pins,
    remove_others,
    table,
    tracked_bytes,
    unavailable,
)
from packaging.requirements import Requirement
from packaging.version import Version

INDEX = {
    "datasets": ("5.2.0", ["fsspec[http]>=2023", "dill<0.4.2", "tensorflow; extra == 'tensorflow'"]),
    "dill": ("0.4.1", []),
    "fsspec": ("2026.9.0", ["filelock", "aiohttp; extra == 'http'", "s3fs; extra == 's3'"]),
    "kubernetes": ("37.0.2", ["pydantic[email]>=2", "websocket-client", "pywin32; sys_platform == 'win32'"]),
    "pydantic": ("2.14.3", ["pydantic_core==2.50.4", "torch>=2", "email-validator; extra == 'email'"]),
    "pydantic-core": ("2.50.4", ["typing-extensions; python_version >= '3.12'", "tomli; python_version < '3.12'"]),
    **{name: ("1.0", []) for name in ("aiohttp", "email-validator", "typing-extensions", "websocket-client")},
}
"""The versions and requirements of a small package index."""


class Index:
    """A function that returns the packages of INDEX, or of another table, and records the requirements."""

    def __init__(self, **changes: tuple[str, list[str]]) -> None:
        self.packages = {**INDEX, **changes}
        self.asked: list[str] = []

    def __call__(self, requirement: Requirement) -> Package:
        name = requirement.name.lower().replace("_", "-")
        self.asked.append(name)
        version, lines = self.packages[name]
        return Package(name, Version(version), tuple(Requirement(line) for line in lines))


def wanted(*lines: str) -> list[Wanted]:
    return [Wanted(Requirement(line), "pyproject.toml") for line in lines]


def carried_names(lines: Iterable[str], machine: Machine, index: Index | None = None) -> list[str]:
    return sorted(closure(wanted(*lines), machine, index or Index()))


def make_wheel(folder: Path, name: str, *lines: str) -> Path:
    """Make a wheel that contains little more than METADATA."""
    path = folder / name
    distribution = "-".join(name.split("-")[:2])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{distribution}.dist-info/METADATA", "\n".join(("Metadata-Version: 2.1", *lines, "", "Text")))
        archive.writestr("vendored/another-1.0.dist-info/METADATA", "Requires-Dist: nothing\n")
    return path


def test_what_the_machine_has_is_not_carried() -> None:
    index = Index()
    assert carried_names(["torch>=2.11,<3", "dill"], {"torch": Version("2.11.0")}, index) == ["dill"]
    assert index.asked == ["dill"]


def test_what_a_carried_package_requires_is_carried_too() -> None:
    found = carried_names(["pydantic>=2.11,<3"], {"torch": None})
    assert found == ["pydantic", "pydantic-core", "typing-extensions"]


def test_a_package_is_fetched_once_however_many_require_it() -> None:
    index = Index()
    carried_names(["pydantic", "pydantic_core", "kubernetes"], {"torch": None}, index)
    assert sorted(index.asked) == sorted(set(index.asked))


def test_packages_that_require_each_other_come_to_an_end() -> None:
    index = Index(dill=("0.4.1", ["datasets"]))
    assert carried_names(["dill"], {"fsspec": None, "aiohttp": None}, index) == ["datasets", "dill"]


def test_requirements_for_another_system_or_python_do_not_count() -> None:
    found = carried_names(["kubernetes"], {"torch": None})
    assert "typing-extensions" in found
    assert not {"pywin32", "tomli"} & set(found)


def test_an_extra_counts_when_it_is_asked_for() -> None:
    assert "email-validator" in carried_names(["kubernetes"], {"torch": None})
    assert "email-validator" not in carried_names(["pydantic"], {"torch": None})


def test_an_extra_that_is_asked_for_late_counts() -> None:
    assert "email-validator" in carried_names(["pydantic", "kubernetes"], {"torch": None})


def test_an_extra_of_a_package_of_the_machine_brings_only_what_the_extra_adds() -> None:
    assert carried_names(["datasets"], {"fsspec": None}) == ["aiohttp", "datasets", "dill"]


def test_an_extra_is_told_from_what_holds_without_it() -> None:
    requirements = [Requirement(line) for line in ("filelock", "aiohttp; extra == 'http'", "idna; os_name == 'nt'")]
    assert [str(one) for one in applicable(requirements, "")] == ["filelock"]
    assert [one.name for one in applicable(requirements, "http")] == ["aiohttp"]


@pytest.mark.parametrize("name", ["Websocket_Client", "websocket.client", "websocket-client"])
def test_a_name_may_be_spelt_in_every_way(name: str) -> None:
    assert carried_names([name], {"websocket-client": None}) == []
    assert list(read_machine(name)) == ["websocket-client"]
    assert read_pins(f"{name}==1.9") == {"websocket-client": Version("1.9")}


def test_a_clash_with_the_machine_names_both() -> None:
    index = Index(pydantic=("2.14.3", ["torch>=2.12"]))
    with pytest.raises(CarryError) as error:
        carried_names(["pydantic"], {"torch": Version("2.11.0")}, index)
    assert str(error.value) == "pydantic 2.14.3 needs torch>=2.12, but the machine has torch 2.11.0"


def test_a_clash_of_the_project_with_the_machine_names_both() -> None:
    with pytest.raises(CarryError) as error:
        carried_names(["torch<3,>=2.12"], {"torch": Version("2.11.0")})
    assert str(error.value) == "pyproject.toml needs torch<3,>=2.12, but the machine has torch 2.11.0"


def test_a_clash_between_two_carried_packages_names_both() -> None:
    index = Index(dill=("0.4.2", []))
    with pytest.raises(CarryError) as error:
        carried_names(["dill", "datasets"], {"fsspec": None, "aiohttp": None}, index)
    assert str(error.value) == (
        "datasets 5.2.0 needs dill<0.4.2, but dill 0.4.2 would be carried; constraints.txt decides its version"
    )


def test_an_unknown_version_on_the_machine_is_taken_to_be_right() -> None:
    assert carried_names(["torch>=99"], {"torch": None}) == []


def test_a_local_version_of_torch_meets_a_requirement() -> None:
    assert carried_names(["torch>=2.11,<3"], {"torch": Version("2.11.0+cu130")}) == []


def test_the_list_of_the_machine_parses_and_is_sorted() -> None:
    machine = read_machine(MACHINE.read_text())
    assert machine["torch"] == Version("2.11.0")
    assert machine["pyarrow"] is None
    assert list(machine) == sorted(machine)
    assert not machine.keys() & {"pydantic", "pydantic-core", "deepspeed", "datasets", "kopf", "kubernetes"}


def test_a_list_of_the_machine_may_have_comments() -> None:
    text = "# all\n\nnumpy==2.5.2  # seen\nPyYAML\n"
    assert read_machine(text) == {"numpy": Version("2.5.2"), "pyyaml": None}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("numpy>=2", "machine.txt, line 2, gives a range of versions instead of one: >=2"),
        ("numpy==2.*", "machine.txt, line 2, gives a range of versions instead of one: ==2.*"),
        ("numpy 2.5", "machine.txt, line 2, is neither a name nor name==version: numpy 2.5"),
        ("Six", "machine.txt, line 2, names six a second time"),
    ],
)
def test_a_wrong_line_in_the_list_of_the_machine_is_told(line: str, sentence: str) -> None:
    with pytest.raises(CarryError) as error:
        read_machine(f"six\n{line}\n")
    assert str(error.value) == sentence


def test_the_project_requires_what_operator_and_trainer_need() -> None:
    names = {one.name for one in project_requirements((ROOT / "pyproject.toml").read_text())}
    assert {"kopf", "pyyaml", "torch", "deepspeed"} <= names
    assert not names & {"pytest", "ruff"}


def test_a_requirement_of_the_project_for_another_python_does_not_count() -> None:
    text = """
    [project]
    dependencies = ["tomli>=2; python_version < '3.12'", "rich"]
    [project.optional-dependencies]
    trainer = []
    """
    assert [one.name for one in project_requirements(text)] == ["rich"]


def test_a_pinned_version_is_chosen_before_a_range() -> None:
    pins = {"pydantic-core": Version("2.50.4")}
    assert str(chosen(Requirement("Pydantic_Core>=2"), pins)) == "pydantic-core==2.50.4"
    assert str(chosen(Requirement("hjson[all]<4,>=3; os_name == 'posix'"), pins)) == "hjson<4,>=3"


@pytest.mark.parametrize(
    ("wheel", "is_right"),
    [
        ("thing-1.0-py3-none-any.whl", True),
        ("thing-1.0-py2.py3-none-any.whl", True),
        ("thing-1.0-py312-none-any.whl", True),
        ("thing-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("thing-1.0-cp312-cp312-manylinux_2_39_x86_64.whl", True),
        ("thing-1.0-cp39-abi3-manylinux1_x86_64.whl", True),
        ("thing-1.0-cp312-cp312-manylinux_2_40_x86_64.whl", False),
        ("thing-1.0-cp312-cp312-musllinux_1_2_x86_64.whl", False),
        ("thing-1.0-cp312-cp312-manylinux_2_17_aarch64.whl", False),
        ("thing-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", False),
        ("thing-1.0-cp311-cp311-linux_x86_64.whl", False),
        ("thing-2.0-py3-none-any.whl", False),
        ("another-1.0-py3-none-any.whl", False),
        ("no wheel.whl", False),
    ],
)
def test_a_wheel_fits_by_its_name(wheel: str, is_right: bool) -> None:
    assert fits(wheel, Requirement("Thing==1.0")) == is_right


def test_a_wheel_tells_what_it_requires(tmp_path: Path) -> None:
    lines = ("Requires-Python: >=3.10", "Requires-Dist: numpy>=2", "Requires-Dist: idna; extra == 'web'")
    package = read_package(make_wheel(tmp_path, "a_thing-1.2-py3-none-any.whl", *lines))
    assert str(package) == "a-thing 1.2"
    assert package.wheel == "a_thing-1.2-py3-none-any.whl"
    assert [one.name for one in package.requirements] == ["numpy", "idna"]


def test_a_wheel_for_a_newer_python_is_told(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "thing-1.0-py3-none-any.whl", "Requires-Python: >=3.13")
    with pytest.raises(CarryError, match=r"^thing 1.0 needs Python >=3.13, but the machine has 3.12$"):
        read_package(wheel)


def test_a_wheel_of_an_earlier_call_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried.subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    make_wheel(tmp_path, "thing-1.0-py3-none-any.whl")
    make_wheel(tmp_path, "thing-2.0-py3-none-any.whl")
    assert fetch(Requirement("thing"), tmp_path, {"thing": Version("1.0")}).version == Version("1.0")
    assert fetch(Requirement("thing>=1"), tmp_path, {}).version == Version("2.0")


def test_half_a_wheel_of_an_earlier_call_is_not_used(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "thing-1.0-py3-none-any.whl")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    assert kept(Requirement("thing"), tmp_path) is None
    assert not wheel.exists()


def test_wheels_that_are_not_wanted_are_removed(tmp_path: Path) -> None:
    for name in ("thing-1.0-py3-none-any.whl", "thing-2.0-py3-none-any.whl", "commit"):
        (tmp_path / name).touch()
    remove_others(tmp_path, ["thing-2.0-py3-none-any.whl"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["commit", "thing-2.0-py3-none-any.whl"]


def test_a_pinned_package_without_a_wheel_is_named_with_the_last_line_of_pip() -> None:
    words = "WARNING: Retrying\nERROR: No matching distribution found for thing==1.0\n\n"
    assert unavailable(Requirement("thing==1.0"), words) == (
        "the index could give no wheel for Python 3.12 on x86-64 of thing==1.0, which constraints.txt pins; "
        "pip's last line: No matching distribution found for thing==1.0"
    )


def test_a_package_that_must_be_built_is_named_with_the_last_line_of_pip() -> None:
    assert unavailable(Requirement("deepspeed<1"), "") == (
        "the index could give no source of deepspeed<1; pip's last line: it said nothing"
    )


def test_wheels_and_repository_above_the_limit_are_told() -> None:
    check_size(LIMIT - 5_000_000, 5_000_000)
    with pytest.raises(CarryError) as error:
        check_size(LIMIT - 5_000_000, 5_010_000)
    assert str(error.value) == (
        "the wheels have 55.00 MB and the repository 5.01 MB, together more than the 60.00 MB that can travel"
    )


def test_the_table_ends_with_the_total() -> None:
    lines = table({"b.whl": 2_000_000, "a.whl": 500_000}, 1_000_000).splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "a.whl",
        "b.whl",
        "2 wheels",
        "the repository's tracked files",
        "together",
    ]
    assert lines[-1].split()[:2] == ["3.50", "MB"]


def test_a_folder_outside_of_git_is_told(tmp_path: Path) -> None:
    with pytest.raises(CarryError, match=r"is no git repository"):
        tracked_bytes(tmp_path)


def test_a_tracked_file_that_is_deleted_weighs_nothing() -> None:
    assert 1_000_000 < tracked_bytes(ROOT) < LIMIT
