"""Data is read from every format, renamed to the standard columns and split by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from trainer.fixtures_data import (
    CLAUSES,
    COLUMNS,
    dataset,
    save_arrow,
    workspace,
    write_csv,
    write_jsonl,
    write_pictures,
)

from finetune_trainer.contract import Columns, Dataset, Source
from finetune_trainer.data.rows import Rows, load_rows
from finetune_trainer.pod.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def texts(rows: Rows) -> tuple[set[str], set[str]]:
    return set(rows.train["text"]), set(rows.evaluation["text"])


WRITERS = {
    "train.jsonl": write_jsonl,
    "train.json": write_jsonl,
    "list.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "train.csv": write_csv,
    "train.parquet": lambda path, rows: datasets.Dataset.from_list(rows).to_parquet(str(path)),
    "saved": save_arrow,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_and_the_same_digest(name: str, paths: Paths) -> None:
    WRITERS[name](paths.workspace / name, CLAUSES)
    rows = load_rows(dataset(f"workspace://{name}"), "SequenceClassification", paths)
    learned, measured = texts(rows)
    assert learned | measured == {row["clause"] for row in CLAUSES}
    assert not learned & measured
    assert rows.labels == ("notice", "rent", "term")
    assert set(rows.train.column_names) == {"id", "text", "label"}
    for row in (*rows.train, *rows.evaluation):
        original = next(clause for clause in CLAUSES if clause["clause"] == row["text"])
        assert rows.labels[row["label"]] == original["type"]
    write_jsonl(paths.workspace / "reference.jsonl", CLAUSES)
    assert rows.digest == load_rows(dataset("workspace://reference.jsonl"), "SequenceClassification", paths).digest


def test_a_folder_of_files_is_read_in_the_order_of_their_names(paths: Paths) -> None:
    write_jsonl(paths.claims / "legal/b/part.jsonl", CLAUSES[30:])
    write_jsonl(paths.claims / "legal/a.jsonl", CLAUSES[:30])
    (paths.claims / "legal/README.md").write_text("about")
    rows = load_rows(dataset("pvc://legal/", fraction=0.5), "SequenceClassification", paths)
    assert {*rows.train["id"], *rows.evaluation["id"]} == {
        *(f"a.jsonl:{n}" for n in range(1, 31)),
        *(f"b/part.jsonl:{n}" for n in range(1, 31)),
    }
    write_jsonl(paths.workspace / "all.jsonl", CLAUSES)
    assert (
        rows.digest == load_rows(dataset("workspace://all.jsonl", fraction=0.5), "SequenceClassification", paths).digest
    )


def test_a_text_that_looks_like_a_date_stays_a_text(paths: Paths) -> None:
    rows = [{"clause": f"2024-01-{day:02}", "type": day % 2} for day in range(1, 29)]
    write_jsonl(paths.workspace / "dates.jsonl", rows)
    loaded = load_rows(dataset("workspace://dates.jsonl"), "SequenceClassification", paths)
    assert "2024-01-05" in texts(loaded)[0] | texts(loaded)[1]


def test_numeric_labels_keep_their_numeric_order_in_every_format(paths: Paths) -> None:
    rows = [{"clause": f"row {i}", "type": [10, 9, 1][i % 3]} for i in range(40)]
    write_jsonl(paths.workspace / "n.jsonl", rows)
    write_csv(paths.workspace / "n.csv", rows)
    for name in ("n.jsonl", "n.csv"):
        assert load_rows(dataset(f"workspace://{name}"), "SequenceClassification", paths).labels == ("1", "9", "10")


def test_class_labels_of_a_columnar_file_are_their_names(paths: Paths) -> None:
    table = datasets.Dataset.from_list([{"clause": f"row {i}", "type": i % 2} for i in range(40)])
    table = table.cast_column("type", datasets.ClassLabel(names=["refused", "granted"]))
    table.to_parquet(str(paths.workspace / "c.parquet"))
    rows = load_rows(dataset("workspace://c.parquet"), "SequenceClassification", paths)
    assert rows.labels == ("granted", "refused")
    assert all(row["label"] == int(row["text"].split()[1]) % 2 ^ 1 for row in rows.train)


def test_evaluation_rows_stay_evaluation_rows_as_data_grows(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", CLAUSES[:40])
    before = texts(load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths))
    write_jsonl(paths.workspace / "t.jsonl", [*reversed(CLAUSES[40:]), *CLAUSES[:40]])
    after = texts(load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths))
    assert before[0] <= after[0]
    assert before[1] <= after[1]


def test_a_fraction_takes_about_its_part(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", [{"clause": f"c {i}", "type": i % 2} for i in range(2000)])
    rows = load_rows(dataset("workspace://t.jsonl", fraction=0.1), "SequenceClassification", paths)
    assert 150 < len(rows.evaluation) < 250


def test_equal_inputs_lie_on_one_side_whatever_their_labels(paths: Paths) -> None:
    rows = [{"clause": f"clause {i % 20}", "type": "ab"[i % 3 == 0]} for i in range(200)]
    write_jsonl(paths.workspace / "t.jsonl", rows)
    loaded = load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths)
    learned, measured = texts(loaded)
    assert not learned & measured
    assert len(loaded.train) + len(loaded.evaluation) == 200


def test_the_digest_tells_content_order_labels_and_split(paths: Paths) -> None:
    def digest(rows: list[dict[str, Any]], fraction: float = 0.3) -> str:
        write_jsonl(paths.workspace / "t.jsonl", rows)
        return load_rows(dataset("workspace://t.jsonl", fraction=fraction), "SequenceClassification", paths).digest

    first, second, *rest = CLAUSES
    variants = [
        digest(CLAUSES),
        digest([second, first, *rest]),
        digest([{**first, "clause": "Another."}, second, *rest]),
        digest([{**first, "type": "term"}, second, *rest]),
        digest(CLAUSES, fraction=0.5),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == digest(CLAUSES)


def test_evaluation_rows_of_their_own_share_the_labels(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", CLAUSES)
    write_csv(paths.workspace / "e.csv", [{"clause": "Rent.", "type": "rent"}])
    rows = load_rows(dataset("workspace://t.jsonl", evaluation="workspace://e.csv"), "SequenceClassification", paths)
    assert (len(rows.train), len(rows.evaluation)) == (60, 1)
    assert rows.evaluation[0] == {"id": "e.csv:2", "text": "Rent.", "label": rows.labels.index("rent")}


CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (Columns(text="t"), {"t": "Once {i}"}, {"text": "Once {i}"}),
        (Columns(prompt="q", completion="a"), {"q": "Q{i}", "a": "A"}, {"prompt": "Q{i}", "completion": "A"}),
        (
            Columns(messages="m"),
            {"m": [{"role": "system", "content": "{i}"}, *CHAT]},
            {"messages": json.dumps({"messages": [{"role": "system", "content": "{i}"}, *CHAT]})},
        ),
    ],
    ids=["text", "prompt and completion", "messages"],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_causal_model_reads_text_or_pairs_or_messages(
    columns: Columns, row: dict[str, Any], expected: dict[str, Any], name: str, paths: Paths
) -> None:
    WRITERS[f"train.{name.split('.')[1]}"](
        paths.workspace / name, [json.loads(json.dumps(row).replace("{i}", str(i))) for i in range(20)]
    )
    rows = load_rows(dataset(f"workspace://{name}", columns), "CausalLM", paths)
    assert rows.labels is None
    found = {json.dumps({k: v for k, v in r.items() if k != "id"}) for r in (*rows.train, *rows.evaluation)}
    assert found == {json.dumps(expected).replace("{i}", str(i)) for i in range(20)}


def test_a_csv_cell_may_hold_commas_quotes_and_line_breaks(paths: Paths) -> None:
    clauses = [{"clause": f'He said "no",\nthen {i}', "type": i % 2} for i in range(20)]
    write_csv(paths.workspace / "t.csv", clauses)
    rows = load_rows(dataset("workspace://t.csv"), "SequenceClassification", paths)
    assert set(rows.train["text"]) | set(rows.evaluation["text"]) == {row["clause"] for row in clauses}
    assert sorted([*rows.train["id"], *rows.evaluation["id"]], key=lambda i: int(i.split(":")[1]))[:2] == [
        "t.csv:2",
        "t.csv:4",
    ]


# ---- pictures -------------------------------------------------------------------------------------------------------

PICTURES = Columns(image="image", label="label")


def test_the_folder_of_a_picture_is_its_class(paths: Paths) -> None:
    write_pictures(paths.workspace / "shop")
    rows = load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)
    assert rows.labels == ("cup", "plate")
    assert len(rows.train) + len(rows.evaluation) == 16
    for row in rows.train:
        assert rows.labels[row["label"]] == row["id"].split("/")[0]
        assert row["image"].size == (8, 8)


def test_a_metadata_file_gives_the_classes_of_pictures(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop", classes=("all",), per_class=10)
    write_jsonl(folder / "metadata.jsonl", [{"file_name": f"all/{i}.png", "kind": "ab"[i % 2]} for i in range(10)])
    rows = load_rows(dataset("workspace://shop", Columns(image="image", label="kind")), "ImageClassification", paths)
    assert {row["id"]: rows.labels[row["label"]] for row in (*rows.train, *rows.evaluation)} == {
        f"all/{i}.png": "ab"[i % 2] for i in range(10)
    }


def test_pictures_may_be_paths_beside_the_file_or_bytes_inside_it(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop/pictures")
    files = sorted(folder.rglob("*.png"))
    by_path = [{"image": str(file.relative_to(folder.parent)), "label": file.parent.name} for file in files]
    write_csv(folder.parent / "list.csv", by_path)
    table = datasets.Dataset.from_list([{"image": str(file), "label": file.parent.name} for file in files])
    table.cast_column("image", datasets.Image()).to_parquet(str(paths.workspace / "inside.parquet"))
    digests = set()
    for uri in ("workspace://shop/list.csv", "workspace://inside.parquet", "workspace://shop/pictures"):
        rows = load_rows(dataset(uri, PICTURES), "ImageClassification", paths)
        assert rows.train[0]["image"].size == (8, 8)
        digests.add(rows.digest)
    assert len(digests) == 1


# ---- the hub --------------------------------------------------------------------------------------------------------


def test_a_hub_data_set_is_asked_for_by_name_and_revision(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    asked: list[tuple[str, Any]] = []

    def load_dataset(name: str, revision: str | None = None, **_: Any) -> Any:
        asked.append((name, revision))
        others = [{**row, "clause": f"Clause {number}."} for number, row in enumerate(CLAUSES[:6])]
        tables = {"train": CLAUSES, "test": others[:5], "validation": others}
        splits = {split: datasets.Dataset.from_list(rows).to_iterable_dataset() for split, rows in tables.items()}
        return datasets.IterableDatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = Dataset(
        source=Source(uri="hf://acme/clauses", revision="v2"),
        columns=COLUMNS,
        evaluation_source=Source(uri="hf://acme/clauses"),
    )
    rows = load_rows(hub, "SequenceClassification", paths)
    assert asked == [("acme/clauses", "v2"), ("acme/clauses", None)]
    assert (len(rows.train), len(rows.evaluation)) == (60, 6)
    assert rows.evaluation[0]["id"] == "validation:1"
