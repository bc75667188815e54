"""Writes docs/api.md from the CustomResourceDefinition. `make generate` runs it.

Each object of the schema is a section with a table of its fields. The rules over several fields are given by the API
server's messages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from finetune_operator.api.crd import crd
from finetune_operator.api.validation import NAME_MESSAGE, RULES
from finetune_operator.constants import API_VERSION, KIND, SHORT_NAME

PAGE = Path(__file__).with_name("api.md")
Schema = dict[str, Any]

HEAD = f"""# {KIND}: the API

<!-- written by `make generate` from crds/finetunejobs.yaml -->

`apiVersion: {API_VERSION}`, `kind: {KIND}`, in short `{SHORT_NAME}`. The same from a cluster:
`kubectl explain {SHORT_NAME}.spec`.

A field without a default is either required or has a default that depends on other fields; its description says which.
Unknown fields are refused. What is wrong with a manifest is said in one sentence, by the API server and by
`finetune validate` alike.
"""
STATUS_HEAD = """## status

Written by the operator alone. `conditions` are for programs, `phase` is for people:
[what each reason means](troubleshooting.md). A field is absent while there is nothing to say.
"""


def page() -> str:
    """Render the whole document."""
    (version,) = crd()["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    sections = [HEAD, _columns(version["additionalPrinterColumns"])]
    sections += ["## spec\n", *_sections(properties["spec"], "spec", with_limits=True)]
    sections += [_rules(), STATUS_HEAD, *_sections(properties["status"], "status", with_limits=False)]
    return "\n".join(sections)


def _columns(columns: list[Schema]) -> str:
    lines = ["`kubectl get ftj` shows these columns; those marked wide, with `-o wide`:", ""]
    lines += ["| column | is |", "|---|---|"]
    lines += [
        f"| {column['name']}{' (wide)' if column.get('priority') else ''} | `{column['jsonPath']}` |"
        for column in columns
    ]
    return _text(lines)


def _sections(schema: Schema, path: str, with_limits: bool) -> list[str]:
    """Render a table of the object's fields, then a section for each field that is an object with fields."""
    required = set(schema.get("required", ())) if with_limits else set()
    head = "| field | type | default | limits | meaning |" if with_limits else "| field | type | meaning |"
    lines = [head, re.sub(r"[^|]+", "---", head)]
    inner: list[str] = []
    for name, field in schema["properties"].items():
        shape = _shape(field)
        default = "**required**" if name in required else _default(field)
        cells = [f"`{name}`", _type(field), default, _limits(field), field.get("description", "")]
        if "properties" in shape and not shape.get("x-kubernetes-preserve-unknown-fields"):
            below = f"{path}.{name}"
            cells[0] = f"[`{name}`](#{below.replace('.', '').lower()})"
            described = _text([shape["description"]]) if shape is not field else ""
            inner += [f"### {below}\n", described, *_sections(shape, below, with_limits)]
        shown = cells if with_limits else [cells[0], cells[1], cells[4]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |")
    return [_text(lines), *filter(None, inner)]


def _shape(field: Schema) -> Schema:
    """Return the schema of a list's items, or of the field itself."""
    items: Schema = field.get("items", field)
    return items


def _type(field: Schema) -> str:
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    return str(field["type"])


def _default(field: Schema) -> str:
    """Render the default, or nothing for an object whose defaults are those of its fields."""
    default = field.get("default")
    if default in (None, {}, {"config": {}}):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _limits(field: Schema) -> str:
    found = []
    if "minimum" in field:
        found.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {field['minimum']:,}")
    if "maximum" in field:
        found.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {field['maximum']:,}")
    if "maxLength" in field:
        shortest = f"{field['minLength']} to " if "minLength" in field else "at most "
        found.append(f"{shortest}{field['maxLength']:,} characters")
    if "maxItems" in field or "maxProperties" in field:
        shortest = f"{field['minItems']} to " if "minItems" in field else "at most "
        found.append(f"{shortest}{field.get('maxItems', field.get('maxProperties'))} entries")
    return ", ".join(found)


def _rules() -> str:
    lines = ["## Rules over several fields", ""]
    lines += ["The sentences with which a manifest is refused, when its fields do not go together:", ""]
    lines += [f"- {NAME_MESSAGE.replace('{value}', '…')}"]
    lines += [f"- spec.{rule.field}: {rule.message.replace('{value}', '…')}" for rule in RULES]
    return _text(lines)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
