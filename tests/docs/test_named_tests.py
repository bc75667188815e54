"""Every test that docs/security.md and docs/reliability.md name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("reliability.md", "security.md")}
NAMED = sorted(
    {(page, *found) for page, text in PAGES.items() for found in re.findall(r"`([a-z0-9_/]+\.py)(?:::(\w+))?`", text)}
)


@pytest.mark.parametrize(("page", "file", "test"), NAMED, ids="::".join)
def test_a_test_that_a_page_names_is_there(page: str, file: str, test: str) -> None:
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^(async )?def {test or r'test_'}", text, re.M)
    assert not test or re.search(rf"^(async )?def {test}\(", text, re.M)


def test_the_pages_name_tests() -> None:
    for page in PAGES:
        assert sum(named[0] == page for named in NAMED) > 20


def test_every_class_of_fault_has_its_row() -> None:
    assert re.findall(r"^\| (P\d+) \|", PAGES["reliability.md"], re.M) == [f"P{number}" for number in range(1, 36)]
