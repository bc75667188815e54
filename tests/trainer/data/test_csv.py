"""The separator of a CSV file's cells is found from its header."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.data.raw_row import BadRow, RawRow
from finetune_trainer.data.text_files import read_csv

SEPARATED = {
    "semicolons": ("t.csv", 'text;label\n"a; b, c";x\n', {"text": "a; b, c", "label": "x"}),
    "tabs": ("t.csv", "text\tlabel\na, b; c\tx\n", {"text": "a, b; c", "label": "x"}),
    "tabs by its suffix": ("t.tsv", "text, or not\tlabel\na\tx\n", {"text, or not": "a", "label": "x"}),
    "commas in spite of its suffix": ("t.tsv", "text,label\na,x\n", {"text": "a", "label": "x"}),
    "commas, where a name holds a semicolon": ("t.csv", "text;long,label\na,x\n", {"text;long": "a", "label": "x"}),
    "semicolons, where a name in quotes holds a comma": ("t.csv", '"a,b";label\n1;x\n', {"a,b": "1", "label": "x"}),
    "commas after empty lines": ("t.csv", "\n\ntext,label\n\na,x\n", {"text": "a", "label": "x"}),
    "nothing": ("t.csv", "text\na b\n", {"text": "a b"}),
    "commas after a byte order mark": ("t.csv", "\ufefftext,label\na,x\n", {"text": "a", "label": "x"}),
}


def read(folder: Path, name: str, content: str) -> list[RawRow | BadRow]:
    (folder / name).write_text(content)
    return list(read_csv(folder / name, name, "dataset.uri", f"workspace://{name}"))


@pytest.mark.parametrize(("name", "content", "values"), SEPARATED.values(), ids=SEPARATED)
def test_cells_are_separated_by(name: str, content: str, values: dict[str, str], tmp_path: Path) -> None:
    (row,) = read(tmp_path, name, content)
    assert isinstance(row, RawRow)
    assert row.values == values


@pytest.mark.parametrize(("separator", "named"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs")])
def test_a_line_with_too_many_cells_names_the_separator(separator: str, named: str, tmp_path: Path) -> None:
    first, second = read(tmp_path, "t.csv", "text,label\na,x\nb,c,x\n".replace(",", separator))
    assert isinstance(first, RawRow)
    assert second == BadRow(
        "t.csv:3",
        "dataset.uri: workspace://t.csv line 3 has 3 cells where the header has 2; "
        f"mend that line or quote the cells that hold {named}",
    )


def test_a_row_is_called_after_its_first_line(tmp_path: Path) -> None:
    rows = read(tmp_path, "t.csv", 'text,label\n"a\nb",x\nc,y\n')
    assert [row.id for row in rows] == ["t.csv:2", "t.csv:4"]
