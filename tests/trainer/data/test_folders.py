"""Folders: which of their files are data, which splits they have, and how a pattern names several files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image
from trainer.fixtures_data import CLAUSES, dataset, save_arrow, workspace, write_csv, write_jsonl, write_pictures

from finetune_trainer.contract import Columns, Source
from finetune_trainer.data.files import read
from finetune_trainer.data.raw_row import RawRow
from finetune_trainer.data.rows import Rows, load_rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

PICTURES = Columns(image="image", label="label")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return workspace(tmp_path)


def load(uri: str, paths: Paths, evaluation: str | None = None) -> Rows:
    return load_rows(dataset(uri, evaluation=evaluation), "SequenceClassification", paths)


def refused(uri: str, paths: Paths) -> str:
    with pytest.raises(InvalidError) as error:
        load(uri, paths)
    return str(error.value)


def ids(uri: str, paths: Paths) -> list[str]:
    return [row.id for row in read(Source(uri=uri), "dataset.uri", "train", paths).rows]


def parquet(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_a_clone_from_the_hub_is_refused_and_its_splits_can_be_named(paths: Paths) -> None:
    data = paths.workspace / "clone/data"
    parquet(data / "train-00000-of-00002.parquet", CLAUSES[:30])
    parquet(data / "train-00001-of-00002.parquet", CLAUSES[30:50])
    parquet(data / "test-00000-of-00001.parquet", CLAUSES[50:])
    (data.parent / "README.md").write_text("about")
    assert refused("workspace://clone", paths) == (
        "dataset.uri: folder workspace://clone holds the splits data/train-*-of-00002.parquet, "
        "data/test-00000-of-00001.parquet; name one of them as dataset.uri, as in "
        "workspace://clone/data/train-*-of-00002.parquet, and another one as dataset.evaluation.uri, as in "
        "workspace://clone/data/test-00000-of-00001.parquet"
    )
    rows = load(
        "workspace://clone/data/train-*-of-00002.parquet", paths, "workspace://clone/data/test-00000-of-00001.parquet"
    )
    assert sorted(rows.train["text"]) == sorted(row["clause"] for row in CLAUSES[:50])
    assert rows.train["id"][30] == "train-00001-of-00002.parquet:1"
    assert len(rows.evaluation) == 10


def test_splits_of_pictures_are_refused_and_can_be_named(paths: Paths) -> None:
    for blue, split in enumerate(("seg_train/seg_train", "seg_test/seg_test")):
        write_pictures(paths.workspace / "shop" / split, blue=blue)
    with pytest.raises(InvalidError, match=r"holds the splits seg_train, seg_test; .* workspace://shop/seg_train, and"):
        load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)
    named = dataset("workspace://shop/seg_train", PICTURES, "workspace://shop/seg_test")
    rows = load_rows(named, "ImageClassification", paths)
    assert (len(rows.train), len(rows.evaluation), rows.labels) == (16, 16, ("cup", "plate"))


def test_splits_in_the_names_of_pictures_have_to_be_moved(paths: Paths) -> None:
    write_pictures(paths.workspace / "shop")
    for picture in (paths.workspace / "shop").rglob("*.png"):
        picture.rename(picture.with_name(f"{'test' if picture.stem == '0' else 'train'}_{picture.name}"))
    with pytest.raises(InvalidError, match="move the pictures of each to a folder of its own"):
        load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)


def test_a_saved_dictionary_of_data_sets_is_refused(paths: Paths) -> None:
    for split in ("train", "validation"):
        save_arrow(paths.workspace / "saved" / split, CLAUSES)
    assert "holds the splits train, validation;" in refused("workspace://saved", paths)
    assert len(load("workspace://saved/train", paths).train) > 0


def test_a_class_that_is_called_train_is_no_split(paths: Paths) -> None:
    write_pictures(paths.workspace / "vehicles", classes=("train", "plane", "car"))
    rows = load_rows(dataset("workspace://vehicles", PICTURES), "ImageClassification", paths)
    assert rows.labels == ("car", "plane", "train")


# ---- several files named with * -------------------------------------------------------------------------------------


def test_a_star_names_files_of_one_folder(paths: Paths) -> None:
    write_jsonl(paths.workspace / "my data [1]/train a.jsonl", CLAUSES[:30])
    write_jsonl(paths.workspace / "my data [1]/train b.jsonl", CLAUSES[30:])
    write_jsonl(paths.workspace / "my data [1]/other.jsonl", [])
    assert ids("workspace://my data [1]/train*.jsonl", paths)[29:31] == ["train a.jsonl:30", "train b.jsonl:1"]


def test_a_star_may_stand_beside_the_scheme(paths: Paths) -> None:
    write_jsonl(paths.workspace / "train-1.jsonl", [{"clause": "", "type": 1}])
    assert refused("workspace://train-*.jsonl", paths).startswith("dataset.columns.text: train-1.jsonl:1: ")
    (paths.workspace / "train-1.jsonl").write_text("{")
    assert refused("workspace://*.jsonl", paths).startswith("dataset.uri: workspace://train-1.jsonl line 1 is not JSON")


def test_a_file_whose_name_holds_a_star_is_that_file(paths: Paths) -> None:
    write_jsonl(paths.workspace / "a*.jsonl", CLAUSES)
    write_jsonl(paths.workspace / "ab.jsonl", CLAUSES)
    assert len(ids("workspace://a*.jsonl", paths)) == len(CLAUSES)


def test_a_star_that_matches_nothing_says_so(paths: Paths) -> None:
    (paths.workspace / "d").mkdir()
    for uri in ("workspace://d/train-*.parquet", "workspace://none/*", "workspace://d/*.xlsx"):
        assert refused(uri, paths) == (
            f"dataset.uri: {uri} matches no jsonl, json, csv, tsv, parquet or arrow file; "
            "put the data there or correct the URI"
        )


def test_a_star_that_matches_several_splits_is_refused(paths: Paths) -> None:
    for name in ("train", "test"):
        write_jsonl(paths.workspace / f"d/{name}.jsonl", CLAUSES)
    assert "holds the splits train.jsonl, test.jsonl;" in refused("workspace://d/t*.jsonl", paths)


# ---- which files are data -------------------------------------------------------------------------------------------

BOOKKEEPING = (
    "dataset_infos.json",
    "dataset_info.json",
    "state.json",
    "README.md",
    "LICENSE",
    ".gitattributes",
    ".cache/huggingface/data.json",
    "__MACOSX/data.csv",
    "dataset-metadata.json",
    "sample_submission.csv",
    "sampleSubmission.csv",
    "labelled/notes.json",
    "labelled/classes.txt",
    "cache-0123456789abcdef.arrow",
)


def test_bookkeeping_files_are_no_data(paths: Paths) -> None:
    write_jsonl(paths.workspace / "d/data.jsonl", CLAUSES)
    for name in BOOKKEEPING:
        (paths.workspace / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.workspace / "d" / name).write_text("{}")
    rows = load("workspace://d", paths)
    assert len(rows.train) + len(rows.evaluation) == len(CLAUSES)
    assert rows.notes == ()


def test_data_that_is_called_like_a_bookkeeping_file_is_read(paths: Paths) -> None:
    write_jsonl(paths.workspace / "d/notes.json", CLAUSES[:1])
    write_jsonl(paths.workspace / "d/readme/license_terms.json", CLAUSES[:1])
    assert ids("workspace://d", paths) == ["notes.json:1", "readme/license_terms.json:1"]


def test_pictures_that_are_not_read_are_counted(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop")
    for name in ("cup/a.heic", "cup/b.HEIC", "plate/c.svg", "plate/LICENSE"):
        (folder / name).write_text("x")
    rows = load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)
    assert rows.notes == (
        "dataset.uri: folder workspace://shop also holds 2 .heic files, 1 .svg file, which are not read; "
        "save them as another type if they matter",
    )


def test_a_folder_of_pictures_that_are_not_read_says_what_it_holds(paths: Paths) -> None:
    (paths.workspace / "shop/cup").mkdir(parents=True)
    (paths.workspace / "shop/cup/a.heic").write_text("x")
    assert refused("workspace://shop", paths) == (
        "dataset.uri: folder workspace://shop holds no jsonl, json, csv, tsv, parquet or arrow file and no picture, "
        "only 1 .heic file; put the data there or correct the URI"
    )


def test_notes_on_the_evaluation_name_its_field(paths: Paths) -> None:
    write_jsonl(paths.workspace / "t.jsonl", CLAUSES)
    write_jsonl(paths.workspace / "e/e.jsonl", [{**row, "clause": f"{row['clause']} So be it."} for row in CLAUSES[:5]])
    (paths.workspace / "e/e.xlsx").write_text("x")
    (note,) = load("workspace://t.jsonl", paths, "workspace://e").notes
    assert note.startswith("dataset.evaluation.uri: folder workspace://e also holds 1 .xlsx file,")


def test_a_folder_with_the_suffix_of_a_file_is_a_folder(paths: Paths) -> None:
    write_csv_part(paths.workspace / "rows.csv/part-00000.csv")
    (paths.workspace / "rows.csv/_SUCCESS").write_text("")
    assert ids("workspace://rows.csv", paths)[0] == "part-00000.csv:2"


def write_csv_part(path: Path) -> None:
    path.parent.mkdir(parents=True)
    write_csv(path, CLAUSES)


# ---- links and other special files ----------------------------------------------------------------------------------


def test_links_to_files_and_folders_are_followed_once(paths: Paths) -> None:
    write_jsonl(paths.claims / "blobs/4f2a", CLAUSES[:30])
    write_jsonl(paths.claims / "more/b.jsonl", CLAUSES[30:])
    folder = paths.workspace / "d"
    folder.mkdir()
    (folder / "a.jsonl").symlink_to(paths.claims / "blobs/4f2a")
    (folder / "more").symlink_to(paths.claims / "more")
    (folder / "loop").symlink_to(folder)
    assert ids("workspace://d", paths) == [
        *(f"a.jsonl:{line}" for line in range(1, 31)),
        *(f"more/b.jsonl:{line}" for line in range(1, 31)),
    ]


def broken_link(folder: Path) -> None:
    (folder / "a.jsonl").symlink_to(folder / "none")


def pointer(folder: Path) -> None:
    (folder / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda folder: None,
            "folder workspace://d holds no jsonl, json, csv, tsv, parquet or arrow file and no picture;",
        ),
        (broken_link, "workspace://d/a.jsonl is a link to a file that is not there; put the file there or"),
        (pointer, "workspace://d/a.parquet is a pointer of Git LFS and not the file itself; run 'git lfs pull' there"),
    ],
    ids=["nothing", "a link that leads nowhere", "a pointer of Git LFS"],
)
def test_what_is_wrong_with_a_folder_is_said(make: Callable[[Path], None], sentence: str, paths: Paths) -> None:
    (paths.workspace / "d").mkdir()
    make(paths.workspace / "d")
    assert refused("workspace://d", paths).startswith(f"dataset.uri: {sentence}")


def test_a_name_that_is_too_long_says_so(paths: Paths) -> None:
    assert refused(f"workspace://{'a' * 300}", paths).endswith(
        "cannot be read (File name too long); correct the URI or the permissions"
    )


def test_a_hundred_thousand_pictures_are_listed_in_seconds(paths: Paths) -> None:
    Image.new("RGB", (8, 8)).save(paths.workspace / "one.png")
    for number in range(100):
        folder = paths.workspace / f"shop/{number}"
        folder.mkdir(parents=True)
        for picture in range(100):
            os.link(paths.workspace / "one.png", folder / f"{picture}.png")
    for number in range(9):
        (paths.workspace / f"shop/more{number}").mkdir()
        for folder in range(100):
            (paths.workspace / f"shop/more{number}/{folder}").symlink_to(paths.workspace / f"shop/{folder}")
    reading = read(Source(uri="workspace://shop"), "dataset.uri", "train", paths)
    assert sum(isinstance(row, RawRow) for row in reading.rows) == 100_000


# ---- metadata of pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_of_every_format_gives_columns_to_pictures(name: str, paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop", classes=("all",), per_class=10)
    rows = [{"file_name": f"all/{i}.png", "kind": f"0{i % 2}"} for i in range(10)]
    {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": parquet}[Path(name).suffix](folder / name, rows)
    loaded = load_rows(dataset("workspace://shop", Columns(image="image", label="kind")), "ImageClassification", paths)
    assert loaded.labels == ("00", "01")
    assert {*loaded.train["id"], *loaded.evaluation["id"]} == {f"all/{i}.png" for i in range(10)}


def test_pictures_that_metadata_names_but_nobody_has_are_named_by_their_line(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop", classes=("all",), per_class=2)
    write_jsonl(folder / "metadata.jsonl", [{"file_name": f"all/{i}.png", "label": i} for i in range(3)])
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)
    assert str(error.value) == (
        "dataset.columns.image: picture metadata.jsonl:3 cannot be read (No such file or directory); "
        "paths are relative to the file that names them"
    )


def test_metadata_without_the_names_of_pictures_is_refused(paths: Paths) -> None:
    folder = write_pictures(paths.workspace / "shop")
    write_csv(folder / "metadata.csv", [{"file": "cup/0.png", "label": "cup"}])
    with pytest.raises(InvalidError, match=r"shop/metadata\.csv has no column 'file_name'; name the picture of each"):
        load_rows(dataset("workspace://shop", PICTURES), "ImageClassification", paths)


def test_a_copied_folder_gives_the_same_rows(paths: Paths) -> None:
    write_pictures(paths.workspace / "shop")
    shutil.copytree(paths.workspace / "shop", paths.claims / "shop")
    first, second = (
        load_rows(dataset(uri, PICTURES), "ImageClassification", paths).digest
        for uri in ("workspace://shop", "pvc://shop")
    )
    assert first == second
