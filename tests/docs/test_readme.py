"""The README's first screen: two commands, a valid manifest of at most ten lines, and the picture of the terminal."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from docs.pages import ROOT, blocks

from finetune_operator.cli.main import main

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "pictures" / "run.svg"
MAX_BYTES = 60_000
FIRST_SCREEN = 35
"""The number of lines in a first screen."""


def test_the_first_screen_has_commands_manifest_and_picture() -> None:
    lines = README.read_text().splitlines()[:FIRST_SCREEN]
    commands, manifest = lines.index("```sh"), lines.index("```yaml")
    picture = next(number for number, line in enumerate(lines) if "(docs/pictures/run.svg)" in line)
    assert commands < manifest < picture
    assert len(blocks(README, "sh")[0].splitlines()) == 2


def test_the_manifest_is_valid_and_has_ten_lines_at_most(tmp_path: Path) -> None:
    (manifest,) = blocks(README, "yaml")
    assert len(manifest.splitlines()) <= 10
    file = tmp_path / "job.yaml"
    file.write_text(manifest)
    assert main(["validate", str(file)]) == 0


def test_the_picture_shows_a_run_to_its_end_and_asks_no_other_site_for_anything() -> None:
    picture = PICTURE.read_text()
    assert len(picture.encode()) < MAX_BYTES
    for shown in ("finetune", "examples/contracts/job.yaml", "Complete", "accuracy", "Model:"):
        assert shown in picture
    assert not re.findall(r"(?:href|src|url)\s*[=(]\s*['\"]?(?:https?:)?//", picture)


@pytest.fixture
def record() -> dict[str, Any]:
    """Return the functions of docs/pictures/record.py."""
    pytest.importorskip("pyte", reason="pip install 'finetune-operator[dev]'")
    return runpy.run_path(str(ROOT / "docs" / "pictures" / "record.py"))


def screen_of(written: bytes) -> Any:
    import pyte

    screen = pyte.Screen(40, 5)
    pyte.ByteStream(screen).feed(written)
    return screen


def test_the_recorder_draws_what_is_left_on_the_screen(record: dict[str, Any]) -> None:
    drawn = record["drawn"](screen_of(b"first \x1b[31mred\x1b[0m\r\n10%\r\x1b[1m90%\x1b[0m"), "a title")
    words = re.sub(r"<[^>]+>", "\n", drawn.partition("</defs>")[2]).replace("&#160;", " ").split()
    assert words == ["a", "title", "first", "red", "90%"]


def test_the_recorded_command_has_a_terminal_and_its_exit_code_is_known(record: dict[str, Any]) -> None:
    import pyte

    screen = pyte.Screen(40, 5)
    command = ["sh", "-c", "test -t 1 && echo a terminal; exit 3"]
    assert record["record"](command, "/", pyte.ByteStream(screen)) == 3
    assert screen.display[0].strip() == "a terminal"
