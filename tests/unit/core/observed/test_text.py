"""How text from others is cleaned before it reaches a status, an event or a log."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.core.observed.text import MAX_MESSAGE_BYTES, plain, shortened

HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text(st.characters()))
def test_no_control_character_nor_mark_of_direction_is_left(text: str) -> None:
    assert not {unicodedata.category(character) for character in plain(text)} & HARMFUL
    assert len(shortened(text).encode()) <= MAX_MESSAGE_BYTES


@given(st.text("abcäöü中文ελ 0123456789.,:;/()[]{}'\"=-_😀", max_size=300).map(str.strip))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text \x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "text link"),
        ("\x1bP1$r0m\x1b\\text\x1bc", "text"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("\u2066a\u2069\u200b\u200e\ufeff\U000e0041b", "ab"),
        ("one\ntwo\r\nthree\tfour\u2028five", "one two  three four five"),
        ("bell\x07 null\x00 delete\x7f", "bell null delete"),
        ("lone \ud800 half", "lone  half"),
        ("hf_\x1b[0mabcdefghijklmnopqrst", "***"),
        ("pass\u200bword=x", "password=***"),
    ],
)
def test_escape_sequences_and_marks_are_taken_out(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_text_is_cut_within_no_character() -> None:
    assert shortened("ü" * 600) == "ü" * 512
    assert shortened("x" * 10**6) == "x" * MAX_MESSAGE_BYTES


def test_a_token_is_redacted_before_the_text_is_cut() -> None:
    text = "x" * (MAX_MESSAGE_BYTES - 10) + " hf_abcdefghijklmnopqrstuvwxyz"
    assert "hf_" not in shortened(text)
