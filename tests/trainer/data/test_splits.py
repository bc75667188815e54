"""Splits are found in the usual layouts of data sets, but not in names that only resemble a split's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.splits import splits_of

WORDS = {
    "train": ("train", "training", "trainset", "training_set", "TRAIN", "Train"),
    "validation": ("validation", "valid", "val", "VAL"),
    "dev": ("dev",),
    "evaluation": ("eval", "evaluation"),
    "holdout": ("holdout", "hold-out", "held_out"),
    "test": ("test", "testing", "testset", "test_data", "Test"),
}
ALL_WORDS = [(split, word) for split, words in WORDS.items() for word in words]

DATA = {
    "folders": (["train/a.jsonl", "test/a.jsonl"], {"train": ("train",), "test": ("test",)}),
    "files": (["train.csv", "test.csv"], {"train": ("train.csv",), "test": ("test.csv",)}),
    "a clone from the hub": (
        [
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
        ],
        {
            "train": ("data/train-*-of-00002.parquet",),
            "validation": ("data/validation-00000-of-00001.parquet",),
            "test": ("data/test-00000-of-00001.parquet",),
        },
    ),
    "prefixes": (
        ["mydata-train.jsonl", "mydata.validation.jsonl"],
        {"train": ("mydata-train.jsonl",), "validation": ("mydata.validation.jsonl",)},
    ),
    "suffixes": (["train_v2.csv", "dev_v2.csv"], {"train": ("train_v2.csv",), "dev": ("dev_v2.csv",)}),
    "camel case": (["xTrain.csv", "xTest.csv"], {"train": ("xTrain.csv",), "test": ("xTest.csv",)}),
    "below another folder": (
        ["v1/train/a.jsonl", "v1/train/b.jsonl", "v1/test/c.jsonl"],
        {"train": ("v1/train",), "test": ("v1/test",)},
    ),
    "below a folder whose name is a split": (
        ["test_project/train.csv", "test_project/holdout.csv"],
        {"train": ("test_project/train.csv",), "holdout": ("test_project/holdout.csv",)},
    ),
    "each in a folder of its own": (
        ["a/train.csv", "b/test.csv"],
        {"train": ("a/train.csv",), "test": ("b/test.csv",)},
    ),
    "beside other files": (
        ["train.csv", "test_public.csv", "extra.csv", "more.csv", "sample.csv"],
        {"train": ("train.csv",), "test": ("test_public.csv",)},
    ),
    "of several subjects": (
        ["news_train.csv", "news_test.csv", "mail_train.csv", "mail_test.csv"],
        {"train": ("*_train.csv",), "test": ("*_test.csv",)},
    ),
    "with no pattern of its own": (
        ["a_train_x.csv", "train_y.csv", "test_x.csv", "a_test.csv"],
        {"train": ("a_train_x.csv", "train_y.csv"), "test": ("a_test.csv", "test_x.csv")},
    ),
    "of different names": (
        ["news_train.csv", "mail_test.csv"],
        {"train": ("news_train.csv",), "test": ("mail_test.csv",)},
    ),
    "train and validation in one": (
        ["train_val.csv", "test.csv"],
        {"test": ("test.csv",), "train+validation": ("train_val.csv",)},
    ),
    "folders of a suffix": (
        ["train.parquet/part-0.parquet", "test.parquet/part-0.parquet"],
        {"train": ("train.parquet",), "test": ("test.parquet",)},
    ),
}
PICTURES = {
    "folders": (["train/cup/1.png", "test/cup/2.png"], {"train": ("train",), "test": ("test",)}),
    "folders twice": (
        ["seg_train/seg_train/sea/1.jpg", "seg_test/seg_test/sea/2.jpg", "seg_pred/seg_pred/3.jpg"],
        {"train": ("seg_train",), "test": ("seg_test",)},
    ),
    "a class that is called as a split": (
        ["train/train/1.jpg", "train/plane/2.jpg", "val/train/3.jpg", "val/plane/4.jpg"],
        {"train": ("train",), "validation": ("val",)},
    ),
    "all pictures by their names": (
        ["cup/train_1.jpg", "cup/train_2.jpg", "cup/test_1.jpg"],
        {"train": ("cup/train_*.jpg",), "test": ("cup/test_1.jpg",)},
    ),
    "splits below each class": (
        ["cats/train/1.jpg", "cats/test/2.jpg", "dogs/train/3.jpg", "dogs/test/4.jpg"],
        {"train": ("cats/train",), "test": ("cats/test",)},
    ),
}
NONE = {
    "letters within words": ["constraint.csv", "latest.jsonl", "contest.csv", "strain.csv"],
    "one split": ["strain_train.csv"],
    "one split among others": ["train.csv", "more.csv", "data/train-1.csv"],
    "shards": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
    "files of subjects": ["train_ticket.csv", "test_drive.csv", "book_flight.csv", "play_music.csv", "weather.csv"],
    "a file that was to be split": ["train_test_split.csv"],
    "nothing": [],
}
NO_PICTURES = {
    "a class of vehicles": ["train/1.jpg", "plane/2.jpg", "car/3.jpg"],
    "a class that is called test": ["test/1.jpg", "cup/2.jpg", "plate/3.jpg"],
    "classes that hold the words": ["bullet train/1.jpg", "test tube/2.jpg", "beaker/3.jpg"],
    "a class beside one that holds the word": ["train/1.jpg", "test tube/2.jpg", "beaker/3.jpg"],
    "the split of all": ["train/cup/1.jpg", "train/plate/2.jpg"],
    "pictures that are called so": ["cup/test.jpg", "cup/training.jpg", "cup/3.jpg", "plate/4.jpg"],
}


@pytest.mark.parametrize(("files", "splits"), DATA.values(), ids=DATA)
def test_splits_of_data_files_are_found(files: list[str], splits: dict[str, tuple[str, ...]]) -> None:
    assert splits_of(files, pictures=False) == splits


@pytest.mark.parametrize(("files", "splits"), PICTURES.values(), ids=PICTURES)
def test_splits_of_pictures_are_found(files: list[str], splits: dict[str, tuple[str, ...]]) -> None:
    assert splits_of(files, pictures=True) == splits


@pytest.mark.parametrize("files", NONE.values(), ids=NONE)
def test_other_names_of_data_files_are_no_splits(files: list[str]) -> None:
    assert splits_of(files, pictures=False) == {}


@pytest.mark.parametrize("files", NO_PICTURES.values(), ids=NO_PICTURES)
def test_classes_of_pictures_are_no_splits(files: list[str]) -> None:
    assert splits_of(files, pictures=True) == {}


@given(
    first=st.sampled_from(ALL_WORDS),
    second=st.sampled_from(ALL_WORDS),
    shape=st.sampled_from(("{}.csv", "{}/a.csv", "v1/{}/b/c.csv", "x_{}.csv", "{}-00000-of-00001.csv", "my {} 2.csv")),
    others=st.lists(st.sampled_from(("a.csv", "notes/b.csv", "latest.csv")), unique=True),
)
def test_any_two_words_in_any_layout_are_two_splits(
    first: tuple[str, str], second: tuple[str, str], shape: str, others: list[str]
) -> None:
    found = splits_of([*others, shape.format(first[1]), shape.format(second[1])], pictures=False)
    assert set(found) == ({first[0], second[0]} if first[0] != second[0] else set())


def test_a_hundred_thousand_pictures_are_looked_through_in_seconds() -> None:
    files = [f"{split}/{i % 1000}/test_{i}.jpg" for split in ("a", "b") for i in range(50_000)]
    assert splits_of([*files, "c/train/1.jpg", "c/test/1.jpg"], pictures=True) == {
        "train": ("c/train",),
        "test": ("c/test",),
    }
