"""docs/api.md matches the CustomResourceDefinition and names every field of it."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from typing import Any

from docs.pages import ROOT

from finetune_operator.api.crd import crd

PAGE = (ROOT / "docs" / "api.md").read_text()


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Yield (section, name, description) of each field of an object and of the objects in it.

    Objects that preserve unknown fields are not entered.
    """
    for name, field in schema.get("properties", {}).items():
        yield path, name, field.get("description", "")
        inner = field.get("items", field)
        if not inner.get("x-kubernetes-preserve-unknown-fields"):
            yield from fields(inner, f"{path}.{name}")


def test_the_page_is_the_generated_one() -> None:
    assert runpy.run_path(str(ROOT / "docs" / "generate_api.py"))["page"]() == PAGE, "run: make generate"


def test_every_field_is_in_the_table_of_its_object() -> None:
    (version,) = crd()["spec"]["versions"]
    top = version["schema"]["openAPIV3Schema"]["properties"]
    named = [*fields(top["spec"], "spec"), *fields(top["status"], "status")]
    assert len(named) > 100
    for path, name, description in named:
        section = PAGE.partition(f"# {path}\n")[2].partition("\n##")[0]
        assert f"| `{name}` |" in section or f"| [`{name}`](#" in section, f"{path}.{name}"
        assert description.replace("|", "\\|") in section
