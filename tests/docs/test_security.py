"""Every test that docs/security.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "security.md").read_text())))


@pytest.mark.parametrize(("file", "test"), NAMED, ids="::".join)
def test_a_test_that_the_page_names_is_there(file: str, test: str) -> None:
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^(async )?def {test or r'test_'}", text, re.M)
    assert not test or re.search(rf"^(async )?def {test}\(", text, re.M)


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 20
