"""Values that a structural OpenAPI v3 schema accepts, such as that of a CustomResourceDefinition."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

MAX_TEXT = 24
"""The most characters of a text: longer ones are rare in manifests and slow to draw.

`mutations.py` draws the enormous ones.
"""
MAX_ITEMS = 3
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=MAX_TEXT),
    lambda below: st.lists(below, max_size=MAX_ITEMS) | st.dictionaries(st.text(max_size=8), below, max_size=MAX_ITEMS),
    max_leaves=4,
)  # fmt: skip
QUANTITIES = st.integers(-1, 64) | st.from_regex(r"[0-9]{1,3}(m|k|Ki|Mi|Gi|G|e[0-9]|\.5)?", fullmatch=True)
"""Quantities without long exponents, because a real API server would write the number out."""


def values_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a schema with the keywords that this project's definition uses.

    Raises ValueError for other schemas.
    """
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return QUANTITIES
    match schema.get("type"):
        case "object":
            return _objects_of(schema)
        case "array":
            most = min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS)
            return st.lists(values_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)
        case "string":
            return _texts_of(schema)
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "number":
            return _numbers_of(schema)
        case "boolean":
            return st.booleans()
    raise ValueError(f"{schema} is no schema of this project")


def _objects_of(schema: Schema) -> st.SearchStrategy[Any]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(st.text(max_size=MAX_TEXT), JSON, max_size=MAX_ITEMS)
    if "additionalProperties" in schema:
        most = min(schema.get("maxProperties", MAX_ITEMS), MAX_ITEMS)
        return st.dictionaries(st.text(max_size=MAX_TEXT), values_of(schema["additionalProperties"]), max_size=most)
    fields = {name: values_of(field) for name, field in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    optional = {name: field for name, field in fields.items() if name not in required}
    return st.fixed_dictionaries({name: fields[name] for name in required}, optional=optional)


def _texts_of(schema: Schema) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].removeprefix("^").removesuffix("$"), fullmatch=True)
    return st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", MAX_TEXT), MAX_TEXT))


def _numbers_of(schema: Schema) -> st.SearchStrategy[float]:
    floats = st.floats(
        schema.get("minimum"),
        schema.get("maximum"),
        exclude_min=schema.get("exclusiveMinimum", False),
        exclude_max=schema.get("exclusiveMaximum", False),
        allow_nan=False,
        allow_infinity=False,
    )
    return floats | floats.filter(float.is_integer).map(int) if schema.get("minimum") is None else floats
