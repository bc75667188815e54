"""YAML is read as by kubectl. The expected values are the output of `kubectl annotate --local -o json`, v1.32."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.cli.manifest import ManifestError, load_manifests

AS_KUBECTL = [
    ("[2e-4, 2.0e-4, 1e3, 1E3, 1e+3, .5, 5., +1, -1, +.5]", [0.0002, 0.0002, 1000, 1000, 1000, 0.5, 5, 1, -1, 0.5]),
    ("[1_000, 1_0.5, 1__0, _1, 1_, -_1, .5_0]", [1000, 10.5, 10, "_1", 1, -1, 0.5]),
    ("[1e400, 1e, ., .e5, 08, 1:30, 12:30:45]", ["1e400", "1e", ".", ".e5", 8, "1:30", "12:30:45"]),
    ("[on, off, yes, no, y, n, Y, N, On, OFF]", [True, False, True, False, True, False, True, False, True, False]),
    ("[true, True, TRUE, tRUE, false, nan]", [True, True, True, "tRUE", False, "nan"]),
    ("[0o17, 017, -017, 0O17, 0_7, 0o]", [15, 15, -15, 15, 7, "0o"]),
    ("[0x1F, +0x1F, 0X1f, 0x_1F, 0x]", [31, 31, 31, 31, "0x"]),
    ("[0b101, -0b11, 0B1, 0b1_0]", [5, -3, 1, 2]),
    ("[~, null, Null, NULL, nULL, '', \"\", ]", [None, None, None, None, "nULL", "", ""]),
    (
        "[2024-01-01, 2024-01-01T00:00:00Z, 2024-01-01 10:00:00]",
        ["2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01 10:00:00"],
    ),
    ("[!!str 5, !!int '5', !!float 5, !!bool yes, !!null '', !!str yes]", ["5", 5, 5, True, None, "yes"]),
    ("[!!binary aGVsbG8=, !!binary /w==, !!timestamp 2024-01-01]", ["hello", "\ufffd", "2024-01-01"]),
    ("[0.1, 1.0, 0.0, 1e2, 1e-7, 123456789012345678]", [0.1, 1, 0, 100, 1e-07, 123456789012345678]),
    (
        "[9223372036854775807, 9223372036854775808, 1e19, 1e21]",
        [9223372036854775807, 9.223372036854775808e18, 1e19, 1e21],
    ),
    ("[=, '<<', 'yes', \"on\", '2e-4']", ["=", "<<", "yes", "on", "2e-4"]),
    ("{yes: 1, 1: 2, 1.25: 3, 0x10: 4, 1e3: 5, 'no': 6}", {"true": 1, "1": 2, "1.25": 3, "16": 4, "1000": 5, "no": 6}),
    ("[&x {k: 1}, *x]", [{"k": 1}, {"k": 1}]),
    ("{<<: {a: 1, b: 1}, b: 2}", {"a": 1, "b": 2}),
    ("{b: 2, <<: {b: 1}}", {"b": 1}),
    ("{<<: [{a: 1}, {a: 2, c: 3}], d: 1}", {"a": 1, "c": 3, "d": 1}),
    ("{'<<': 3}", {"<<": 3}),
    ("|\n  two\n  lines\n", "two\nlines\n"),
    (">-\n  one\n  line\n", "one line"),
    ('{"json": [1.5e0, true, null, "\\u00fc"]}', {"json": [1.5, True, None, "ü"]}),
]


@pytest.mark.parametrize(("text", "value"), AS_KUBECTL, ids=[text for text, _ in AS_KUBECTL])
def test_a_value_is_what_kubectl_makes_of_it(text: str, value: Any) -> None:
    (manifest,) = load_manifests(f"kind: A\nvalue: {text}", "a.yaml")
    # The values are compared as JSON text: 1, 1.0 and True are equal in Python, but different for the API server.
    assert json.dumps(manifest["value"]) == json.dumps(value)


def test_every_document_is_an_object_of_its_own_and_empty_ones_are_skipped() -> None:
    text = "# nothing\n---\nkind: A\n---\n---\n# a comment\n---\nnull\n---\nkind: B\n...\n---\n{kind: C}\n"
    assert load_manifests(text, "a.yaml") == [{"kind": "A"}, {"kind": "B"}, {"kind": "C"}]
    assert load_manifests("", "a.yaml") == []
    assert load_manifests("\ufeffkind: A", "a.yaml") == [{"kind": "A"}]


REFUSED = [
    ("kind: A\nspec:\n  a: 1\n  b: 2\n  a: 3\n", "a.yaml, line 5: the key 'a' is given twice, first in line 3"),
    ("kind: A\n'1': x\n1: y\n", "a.yaml, line 3: the key '1' is given twice, first in line 2"),
    ("kind: A\n---\nx: {y: 1, y: 2}\n", "a.yaml, line 3: the key 'y' is given twice, first in line 3"),
    ("kind: A\nspec:\n\ta: 1\n", "a.yaml, line 3: a tab cannot indent or start a value; use spaces"),
    ("kind: A\nx: [1, 2\ny: 3\n", "a.yaml, line 3: expected ',' or ']', but got ':' (while parsing a flow sequence)"),
    ("kind: A\nx: 'open\n", "a.yaml, line 3: found unexpected end of stream (while scanning a quoted scalar)"),
    ("kind: A\n  x: 1\n", "a.yaml, line 2: mapping values are not allowed here"),
    ("kind: A\nx: *none\n", "a.yaml, line 2: found undefined alias 'none'"),
    ("kind: A\nx: &a [*a]\n", "a.yaml, line 2: an alias stands within what it stands for"),
    ("kind: A\nx: !own 1\n", "a.yaml, line 2: the tag !own is not known"),
    (
        "kind: A\nx: !!python/object:os.system 1\n",
        "a.yaml, line 2: the tag tag:yaml.org,2002:python/object:os.system is not known",
    ),
    ("kind: A\nx: !!int x\n", "a.yaml, line 2: 'x' is not of type int"),
    ("kind: A\nx: !!int yes\n", "a.yaml, line 2: 'yes' is not of type int"),
    ("kind: A\nx: !!binary '!'\n", "a.yaml, line 2: '!' is not base64"),
    ("kind: A\nx: .inf\n", "a.yaml, line 2: .inf is not a number that JSON has"),
    ("kind: A\n? [1]\n: 2\n", "a.yaml, line 2: a key must be a text, a number or a boolean"),
    ("kind: A\n~: 2\n", "a.yaml, line 2: a key must be a text, a number or a boolean"),
    ("kind: A\nx: {<<: 3}\n", "a.yaml, line 2: << takes an object or a list of objects"),
    ("kind: A\nx: \x07\n", "a.yaml, line 2: the character '\\x07' is not allowed"),
    ("just words", "a.yaml: a manifest is an object with apiVersion and kind, not 'just words'"),
    ("- kind: A", "a.yaml: a manifest is an object with apiVersion and kind, not [{'kind': 'A'}]"),
    ("x: " + "[" * 5000, "a.yaml: the values are nested too deeply"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_is_no_manifest_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifests(text, "a.yaml")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x" + "f" * 400, "0x" + "f" * 400),
        ("1" * 400, "1" * 400),
        ("1" * 5000, "1" * 5000),
        ("1" * 30, float("1" * 30)),
    ],
)
def test_a_number_that_nothing_can_hold_is_a_text_as_for_kubectl(text: str, value: object) -> None:
    assert load_manifests(f"a: {text}", "f") == [{"a": value}]


def test_a_surrogate_pair_is_a_character_and_half_of_one_is_told() -> None:
    assert load_manifests('{"a": "\\ud83d\\ude00"}', "f") == [{"a": "\U0001f600"}]
    with pytest.raises(ManifestError, match=r"f, line 1: .* has half of a surrogate pair"):
        load_manifests('{"a": "\\ud800"}', "f")


def test_aliases_and_brackets_end_in_a_sentence_before_they_fill_the_memory() -> None:
    doublings = "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}]\n" for n in range(12))
    with pytest.raises(ManifestError, match="more than 1000000 values"):
        load_manifests("a0: &a0 [x]\n" + doublings, "f")
    with pytest.raises(ManifestError, match="nested too deeply"):
        load_manifests("[" * 100_000, "f")
