"""CONTRIBUTING.md names exactly the existing commands and folders."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def first_cells(heading: str) -> list[str]:
    """Return the content of the first cell of each row of the table below a heading."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)


def folders(below: Path) -> set[str]:
    """Return the folders whose files git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=below, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {path.split("/")[0] for path in listed.stdout.splitlines() if "/" in path and (below / path).exists()}


def test_the_map_names_every_folder_and_no_other() -> None:
    assert {cell.rstrip("/") for cell in first_cells("Where things are")} == folders(ROOT)


def test_the_map_names_every_tier_of_tests() -> None:
    (row,) = re.findall(r"^\| `tests/` \|(.*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == folders(ROOT / "tests")


def test_every_command_of_make_is_told_and_no_other() -> None:
    targets = re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(first_cells("Commands")) == {f"make {target}" for target in targets if target != "help"}
