"""Tests of `finetune validate` on fuzzed YAML, valid or not: it ends with an exit code and clear messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz.amount import share
from fuzz.mutations import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import manifest

from finetune_operator.cli.main import main

ODD = (
    "\t", "- ", "? ", ": ", "&a ", "*a", "<<: *a\n", "!!int ", "!!python/object:os.system ", "!x ", "|\n", ">-\n",
    "---\n", "...\n", "%YAML 9.9\n", "{", "}", "[", "]", "'", '"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\x00"',
    "\ufeff", "\x00", "\x85", "0x" + "f" * 400, "1" * 400, "1" * 5000, "-" + "9" * 19, "1e400", "1e-400", ".inf",
    ".nan", "0o8", "1_0", "1:30", "2026-01-01", "yes", "~", "[" * 3000, "{a: " * 400, "!!binary x", "!!binary gA==",
    "a: &a [*a]\n", "x" * 100_000,
)  # fmt: skip
SNIPPETS = st.sampled_from(ODD)
LINES = yaml.safe_dump(manifest()).splitlines(keepends=True)
LONGEST = 6_000
"""The most characters of a text, because the parser is written in Python and slow."""


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Draw a manifest as JSON, which is also YAML, or with odd values in its lines.

    Some have a part inserted or cut out.
    """
    if draw(st.booleans()):
        text = _written(draw(fuzzed()))
    else:
        text = "".join(_odd(draw, line) if draw(st.integers(0, 9)) == 0 else line for line in LINES)
    for _ in range(draw(st.integers(0, 1))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(SNIPPETS) + text[place + draw(st.sampled_from([0, 0, 1, 40])) :]
    return text


def _odd(draw: st.DrawFn, line: str) -> str:
    return f"{line.split(':')[0]}: {draw(SNIPPETS)}\n"


def _written(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, indent=1)[:LONGEST]
    except RecursionError:
        return "[" * 3000


@pytest.mark.timeout(600)
@share(0.15)
@given(text=texts())
def test_a_text_is_valid_or_told_in_sentences(
    text: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "job.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert_told(file, capsys)


def assert_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code = main(["validate", str(file)])
    said = capsys.readouterr()
    said.out.encode(), said.err.encode()
    if code == 0:
        assert said.err == ""
        assert f"{file}: " in said.out
        return
    assert code == 2
    told = said.err.removesuffix("\n").split("\n")
    assert 1 <= len(told) <= 60
    for line in told:
        assert line.startswith(f"finetune: {file}")
        assert len(line) <= len(str(file)) + 700
