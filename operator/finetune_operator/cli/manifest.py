"""Reads manifests as kubectl does, so that a file means the same on a laptop and on a cluster.

kubectl reads YAML with go-yaml v2 (sigs.k8s.io/yaml), which follows neither YAML 1.1 nor 1.2, and converts it to JSON:
`2e-4` is a number, `on` and `yes` are booleans, `017` is octal, `1:30` and dates are strings, `1.0` is the integer 1.
PyYAML parses the text, and this module determines the values of scalars by go-yaml's rules (resolve.go). It is stricter
than kubectl about two things that are always mistakes: duplicate keys and custom tags.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner
from yaml.tokens import Token

PLAIN = "plain"
"""The tag of a scalar without quotes and without a tag of its own; its text determines its type."""
TAG_PREFIX = "tag:yaml.org,2002:"
STRING = TAG_PREFIX + "str"
MERGE_KEY = "<<"

WORDS: dict[str, bool | float | None] = {
    **{word: True for stem in ("y", "yes", "true", "on") for word in (stem, stem.capitalize(), stem.upper())},
    **{word: False for stem in ("n", "no", "false", "off") for word in (stem, stem.capitalize(), stem.upper())},
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
INTEGERS = (
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?0[oO]?[0-7]+"), 8),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INTEGER_BITS = 63
"""The bits of a signed 64-bit integer without its sign. The API server treats larger JSON numbers as floats."""
LONGEST_INTEGER = 67
"""The maximum number of characters of an integer: 64 binary digits, prefix and sign.

A longer text is a float if it can be read as one, otherwise a string.
"""

MAX_FLOW_LEVEL = 200
MAX_VALUES = 1_000_000
"""The maximum number of values in a document with its aliases expanded.

Otherwise a few lines of aliases to aliases could fill the memory.
"""

TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "null": (type(None),),
}
"""The Python types that an explicit tag such as !!int accepts."""


class ManifestError(Exception):
    """The text is not a manifest; the message names the file, the line and the fault."""


class Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's loader up to the tree of nodes; scalars are not resolved."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def fetch_flow_collection_start(self, kind: type[Token]) -> None:
        """Limit how deeply lists and objects in brackets are nested.

        The limit is needed because PyYAML checks all open brackets at each token. Raises RecursionError.
        """
        if self.flow_level >= MAX_FLOW_LEVEL:
            raise RecursionError
        super().fetch_flow_collection_start(kind)

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node without a tag of its own; the tag of a collection is never used."""
        return PLAIN if kind is ScalarNode and implicit[0] else STRING


def load_manifests(text: str, source: str) -> list[dict[str, Any]]:
    """Return the objects of all documents in `text`, except for empty documents.

    `source` names the file in messages. Raises ManifestError.
    """
    try:
        loaded = [Document(source).value(node) for node in _documents(Loader(text)) if not _is_empty(node)]
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ManifestError(f"{source}, line {line}: the character {chr(error.character)!r} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        raise ManifestError(_sentence(source, error)) from error
    except RecursionError:
        raise ManifestError(f"{source}: the values are nested too deeply") from None
    for manifest in loaded:
        if not isinstance(manifest, dict):
            raise ManifestError(f"{source}: a manifest is an object with apiVersion and kind, not {manifest!r:.40}")
    return loaded


def _documents(loader: Loader) -> Iterator[Node]:
    while loader.check_node():
        if (node := loader.get_node()) is not None:
            yield node


def _is_empty(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == PLAIN and plain_value(node.value) is None


def _sentence(source: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{source}, line {mark.line + 1}" if mark else source
    problem = error.problem or error.context or "this is not YAML"
    if "'\\t'" in problem:
        problem = "a tab cannot indent or start a value; use spaces"
    elif error.context and error.context != problem:
        problem = f"{problem} ({error.context})"
    return f"{place}: {problem}"


def plain_value(text: str) -> str | int | float | bool | None:
    """Return the value of a scalar without quotes."""
    if text in WORDS:
        return WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    digits = text.replace("_", "")
    for pattern, base in INTEGERS:
        if text[0] != "." and len(digits) <= LONGEST_INTEGER and pattern.fullmatch(digits):
            number = int(digits.lower().replace("0o", "0") if base == 8 else digits, base)
            if -(2**INTEGER_BITS) <= number < 2 ** (INTEGER_BITS + 1):
                return number
    if FLOAT.fullmatch(digits) and math.isfinite(fraction := float(digits)):
        return fraction
    return text


class Document:
    """Converts the nodes of one document to JSON values."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._values = 0
        self._open: set[int] = set()
        """The ids of the nodes that are being converted; an alias to one of them would cause an endless recursion."""

    def value(self, node: Node) -> Any:
        """Return the JSON value of a node.

        Raises ManifestError.
        """
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(node, f"with its aliases written out, the document has more than {MAX_VALUES} values")
        if isinstance(node, ScalarNode):
            return self._json(node, self._scalar(node))
        if id(node) in self._open:
            raise self._error(node, "an alias stands within what it stands for")
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.value(item) for item in node.value]
            assert isinstance(node, MappingNode)  # nodes are of these three kinds
            return self._mapping(node)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if isinstance(key_node, ScalarNode) and key_node.tag == PLAIN and key_node.value == MERGE_KEY:
                # As in kubectl, merged keys override the keys before them and are overridden by the keys after them.
                found.update(self._merged(value_node))
                continue
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise self._error(key_node, f"the key {key_node.value!r} is given twice, first in line {lines[key]}")
            lines[key] = line
            found[key] = self.value(value_node)
        return found

    def _merged(self, node: Node) -> dict[str, Any]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        if not all(isinstance(source, MappingNode) for source in sources):
            raise self._error(node, f"{MERGE_KEY} takes an object or a list of objects")
        found: dict[str, Any] = {}
        for source in reversed(sources):  # the first source takes precedence
            found.update(self.value(source))
        return found

    def _key(self, node: Node) -> str:
        key = self.value(node)
        if isinstance(key, bool):
            return str(key).lower()
        if isinstance(key, str | int | float):
            return str(key)
        raise self._error(node, "a key must be a text, a number or a boolean")

    def _scalar(self, node: ScalarNode) -> str | int | float | bool | None:
        text: str = node.value
        if node.tag == PLAIN:
            return plain_value(text)
        name = node.tag.removeprefix(TAG_PREFIX)
        if name in ("str", "timestamp"):
            return self._text(node, text)
        if name == "binary":
            try:
                return base64.b64decode("".join(text.split()), validate=True).decode(errors="replace")
            except binascii.Error:
                raise self._error(node, f"{text!r:.40} is not base64") from None
        if name not in TYPES:
            raise self._error(node, f"the tag {node.tag} is not known")
        value = plain_value(text)
        if not isinstance(value, TYPES[name]) or (isinstance(value, bool) and name != "bool"):
            raise self._error(node, f"{text!r:.40} is not of type {name}")
        return value

    def _text(self, node: ScalarNode, text: str) -> str:
        """Return the text with surrogate pairs, by which JSON escapes characters beyond 16 bits, as single characters.

        Raises ManifestError if half of a pair is missing.
        """
        if text.isascii():
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(node, f"{text!r:.40} has half of a surrogate pair") from None

    def _json(self, node: Node, value: str | int | float | bool | None) -> str | int | float | bool | None:
        """Return the value after a conversion to JSON and back.

        A number without a fraction becomes an integer if that fits into 64 bits, and a larger integer a float.
        """
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self._error(node, f"{node.value} is not a number that JSON has")
            return int(value) if value.is_integer() and abs(value) < 2**INTEGER_BITS else value
        if isinstance(value, int) and not -(2**INTEGER_BITS) <= value < 2**INTEGER_BITS:
            return float(value)
        return value

    def _error(self, node: Node, problem: str) -> ManifestError:
        return ManifestError(f"{self._source}, line {node.start_mark.line + 1}: {problem}")
