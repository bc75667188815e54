"""The table of the chart's values, made from the comments in values.yaml.

As a program, this module writes the table into the documents. A comment that begins with `# --` describes the key below
it and continues in the following comment lines. Every key with a description becomes a row, also if its value is an
object.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "finetune-operator"
DOCUMENTS = (CHART / "README.md", ROOT / "docs" / "installation.md")
BEGIN = "<!-- values: written by `make generate` from the comments in values.yaml -->\n"
END = "<!-- end of values -->\n"


class Row(NamedTuple):
    """A value with its dotted name, its default and its description."""

    name: str
    default: Any
    description: str


def rows(text: str) -> list[Row]:
    """Return the described values of a values.yaml, in the order of the file."""
    values = yaml.safe_load(text)
    found: list[Row] = []
    path: list[tuple[int, str]] = []
    description: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r" *# ?(-- )?(.*)", line):
            description = [comment[2]] if comment[1] else [*description, comment[2]]
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(key[1])
            path = [*((indent, name) for indent, name in path if indent < depth), (depth, key[2])]
            if description:
                names = [name for _, name in path]
                found.append(Row(".".join(names), _value(values, names), " ".join(description)))
            description = []
    return found


def table(text: str) -> str:
    """Render the rows as a Markdown table."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for row in rows(text):
        cells = (f"`{row.name}`", f"`{json.dumps(row.default)}`", row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def filled(document: str, values: str) -> str:
    """Return a document with the table between its markers."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(values)}\n{END}{after}"


def _value(values: dict[str, Any], names: list[str]) -> Any:
    value: Any = values
    for name in names:
        value = value[name]
    return value


def main() -> None:
    """Write the table into the documents."""
    values = (CHART / "values.yaml").read_text()
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(), values))


if __name__ == "__main__":
    main()
