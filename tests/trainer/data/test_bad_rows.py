"""One message names all kinds of mistakes in the rows, and its length is limited however many there are."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from trainer.fixtures_data import CLAUSES, dataset, workspace, write_csv, write_jsonl, write_pictures

from finetune_trainer.contract import Columns
from finetune_trainer.data.bad_rows import BadRows
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

EMPTY = "column 'clause' is empty; fill it in or remove the row"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def refused(paths: Paths, uri: str = "workspace://t.jsonl", evaluation: str | None = None) -> str:
    with pytest.raises(InvalidError) as error:
        load_rows(dataset(uri, evaluation=evaluation), "SequenceClassification", paths)
    return str(error.value)


def test_a_hundred_bad_rows_are_counted_and_twenty_are_named(paths: Paths) -> None:
    rows = [{"clause": "", "type": "rent"} if line % 3 == 0 else CLAUSES[0] for line in range(300)]
    write_jsonl(paths.workspace / "t.jsonl", rows)
    named = ", ".join(f"t.jsonl:{line}" for line in range(4, 60, 3))
    assert refused(paths) == (
        f"dataset.columns.text: t.jsonl:1: {EMPTY}; 99 more rows are wrong in the same way: {named} and 80 others"
    )


def test_two_bad_rows_are_both_named(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", [*CLAUSES, {"clause": " ", "type": 1}, {"clause": None, "type": 1}])
    assert refused(paths) == (
        f"dataset.columns.text: t.jsonl:61: {EMPTY}; 1 more row is wrong in the same way: t.jsonl:62"
    )


def test_every_kind_of_mistake_is_described(paths: Paths) -> None:
    good = json.dumps(CLAUSES[0])
    lines = [good, "{", '{"clause": "", "type": 1}', good, '{"clause": "a"}', "[]", '{"clause": 7, "type": 1}', "nul"]
    (paths.workspace / "t.jsonl").write_text("\n".join(lines))
    assert refused(paths) == (
        "dataset.uri: workspace://t.jsonl line 2 is not JSON (Expecting property name enclosed in double quotes at "
        "column 2); mend or remove that line; 1 more row is wrong in the same way: t.jsonl:8; "
        f"also dataset.columns.text: t.jsonl:3: {EMPTY}; "
        "also dataset.columns.label: t.jsonl:5: column 'type' has no label; fill it in or remove the row; "
        "also dataset.uri: workspace://t.jsonl line 6 is not a JSON object; write one {…} per line; "
        "also dataset.columns.text: t.jsonl:7: column 'clause' holds a number, not text; write it as a string or name "
        "another column; 6 rows are wrong in all"
    )


@pytest.mark.parametrize(
    ("value", "complaint"), [("[" * 100_000, "nested too deeply"), ("1" * 5000, "number too long")]
)
def test_a_value_that_is_too_large_for_python_is_a_mistake_of_its_row(value: str, complaint: str, paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", CLAUSES)
    with (paths.workspace / "t.jsonl").open("a") as file:
        file.write(f'{{"clause": {value}}}\n')
    assert refused(paths) == (
        f"dataset.uri: workspace://t.jsonl line 61 is not JSON ({complaint}); mend or remove that line"
    )


def test_reading_goes_on_after_lines_that_are_not_csv(paths: Paths) -> None:
    (paths.workspace / "t.csv").write_text('clause,type\na,b,c\n"d"e,f\n,g\n"h\n')
    assert refused(paths, "workspace://t.csv") == (
        "dataset.uri: workspace://t.csv line 2 has 3 cells where the header has 2; mend that line or quote the cells "
        "that hold commas; also dataset.uri: workspace://t.csv line 3 is not CSV (a cell in quotes goes on after its "
        "closing quote; between cells this file has commas); mend or remove that line; 1 more row is wrong in the same "
        f"way: t.csv:5; also dataset.columns.text: t.csv:4: {EMPTY}; 4 rows are wrong in all"
    )


def test_entries_of_a_list_that_are_no_objects_are_all_named(paths: Paths) -> None:
    (paths.workspace / "t.json").write_text(json.dumps([1, CLAUSES[0], "a"]))
    assert refused(paths, "workspace://t.json") == (
        "dataset.uri: workspace://t.json entry 1 of the list is not a JSON object; write {…}; "
        "1 more row is wrong in the same way: t.json:3"
    )


def test_pictures_that_cannot_be_decoded_are_all_named(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop")
    for name in ("cup/3.png", "plate/1.png"):
        (folder / name).write_bytes(b"GIF89a")
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://shop", Columns(image="image", label="label")), "ImageClassification", paths)
    assert str(error.value) == (
        "dataset.columns.image: picture cup/3.png cannot be decoded; replace or remove it; "
        "1 more row is wrong in the same way: plate/1.png"
    )


def test_a_file_that_is_wrong_as_a_whole_is_said_at_once(paths: Paths) -> None:
    (paths.workspace / "t.jsonl").write_bytes(b'{"clause": ""}\n\xff\n')
    assert refused(paths) == "dataset.uri: workspace://t.jsonl line 2 is not UTF-8 text; save the file as UTF-8"


# ---- columns --------------------------------------------------------------------------------------------------------


def test_a_column_that_some_rows_lack_is_no_absent_column(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", [{"clause": "a"}, *CLAUSES])
    assert refused(paths) == (
        "dataset.columns.label: t.jsonl:1: column 'type' has no label; fill it in or remove the row"
    )


def test_a_column_that_is_not_wanted_may_come_and_go(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", [{**row, f"note {i}": "x"} for i, row in enumerate(CLAUSES)])
    rows = load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths)
    assert len(rows.train) + len(rows.evaluation) == len(CLAUSES)


def test_a_column_that_no_row_has_is_absent_whatever_else_is_wrong(paths: Paths) -> None:
    rows = [{"clause": "", "kind": 1, f"id {i}": 1} for i in range(5)]
    write_jsonl(paths.workspace / "t.jsonl", rows)
    assert refused(paths) == (
        "dataset.columns.label: workspace://t.jsonl has no column 'type'; its columns are clause, kind"
    )


def test_the_file_that_lacks_a_column_is_named(paths: Paths) -> None:
    (paths.workspace / "d").mkdir()
    write_csv(paths.workspace / "d/a.csv", CLAUSES)
    write_csv(paths.workspace / "d/b.csv", [{"clause": "a", "kind": "b"}])
    assert refused(paths, "workspace://d") == (
        "dataset.columns.label: workspace://d/b.csv has no column 'type'; its columns are clause, kind"
    )


def test_one_column_for_two_is_refused(paths: Paths) -> None:
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://t.jsonl", Columns(text="a", label="a")), "SequenceClassification", paths)
    assert str(error.value) == (
        "dataset.columns.label: 'a' is also the column of dataset.columns.text; name another column"
    )


# ---- collecting bad rows --------------------------------------------------------------------------------------------


def test_a_message_has_an_end_however_long_the_names_are() -> None:
    bad = BadRows()
    for kind in range(30):
        for row in range(1000):
            bad.add(f"{'f' * 200}.jsonl:{row}", f"field: {'f' * 200}.jsonl:{row}: is wrong; do {kind}")
    assert 1000 < len(bad.message()) < 2000
    assert bad.message().endswith("; 30000 rows are wrong in all")


def test_no_more_than_twenty_rows_are_named() -> None:
    bad = BadRows()
    for row in range(400):
        bad.add(f"r:{row}", f"field: r:{row}: is wrong; do {row % 4}")
    assert bad.message().count("r:") == 20


def test_memory_does_not_grow_with_the_rows_that_are_wrong() -> None:
    bad = BadRows()
    tracemalloc.start()
    for row in range(50_000):
        bad.add(f"t.jsonl:{row}", f"field: t.jsonl:{row}: is wrong; do {row}")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 100_000
