"""The diagram of the imports between rooms is current."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ROOMS = runpy.run_path(str(DOCS / "generate_rooms.py"))


def test_the_picture_shows_the_imports_of_today() -> None:
    assert ROOMS["page"]() == (DOCS / "rooms.md").read_text(), "run: make generate"


def test_an_arrow_is_left_out_where_others_lead_the_same_way() -> None:
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert ROOMS["without_detours"](imports) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert ROOMS["floors"](imports) == 3


def test_rooms_that_import_each_other_are_named() -> None:
    with pytest.raises(ValueError, match="import each other: a, b"):
        ROOMS["floors"]({"a": {"b"}, "b": {"a"}, "c": set()})
