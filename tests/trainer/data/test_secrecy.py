"""No message contains a row's text, wherever it occurs and whatever is wrong with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from trainer import tiny
from trainer.fixtures_data import CLAUSES, COLUMNS, dataset, workspace, write_csv, write_jsonl, write_pictures

from finetune_trainer.contract import Columns, Task
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.chat import Chat

SECRET = "SECRETMARKER"
GOOD = json.dumps(CLAUSES[0])
CHAT = Columns(messages="chat")
PICTURES = Columns(image="image", label="label")
USER = {"role": "user", "content": SECRET}
ASSISTANT = {"role": "assistant", "content": SECRET}


def lines(*rows: Any, name: str = "t.jsonl") -> Callable[[Path], object]:
    """Return a function that writes a file of good rows followed by `rows`, given as JSON text or as objects."""
    written = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return lambda folder: (folder / name).write_text("\n".join([GOOD, GOOD, GOOD, *written]))


def only(*rows: Any) -> Callable[[Path], object]:
    return lambda folder: write_jsonl(folder / "t.jsonl", rows)


def csv(content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "t.csv").write_text(content)


def parquet(*rows: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: datasets.Dataset.from_list(list(rows)).to_parquet(str(folder / "t.parquet"))


def evaluated(*rows: dict[str, Any]) -> Callable[[Path], object]:
    """Return a function that writes good training rows and these evaluation rows."""
    return lambda folder: [write_jsonl(folder / "t.jsonl", CLAUSES), write_jsonl(folder / "e.jsonl", rows)]


def metadata(name: str, row: dict[str, Any]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        shop = write_pictures(folder / "shop")
        (write_csv if name.endswith("csv") else write_jsonl)(shop / name, [row])

    return make


TEXTS: dict[str, Callable[[Path], object]] = {
    "a line that is no JSON": lines(f'{{"clause": "{SECRET}", "type": }}'),
    "a line with an escape that is none": lines(f'{{"clause": "\\q{SECRET}"}}'),
    "a line that breaks off": lines(f'{{"clause": "{SECRET}'),
    "a line that is a text": lines(json.dumps(SECRET)),
    "a line with more after the object": lines(f"{GOOD} {SECRET}"),
    "a key of one row": lines({SECRET: 1}),
    "keys alone": only({SECRET: SECRET}),
    "keys that are ids": only(*({f"{SECRET}{i}": i} for i in range(50))),
    "a text that is a list": lines({"clause": [SECRET], "type": 1}),
    "a text with half a surrogate pair": lines({"clause": f"{SECRET}\ud800", "type": 1}),
    "a label that is a list": lines({"clause": "a", "type": [SECRET]}),
    "a label that is an object": lines({"clause": "a", "type": {SECRET: SECRET}}),
    "a label with half a surrogate pair": lines({"clause": "a", "type": f"{SECRET}\ud800"}),
    "a label without a text": lines({"clause": "", "type": SECRET}),
    "one label for one row": only({"clause": "a", "type": SECRET}),
    "labels that are texts": only(*({"clause": f"{SECRET} {i}", "type": f"{SECRET} {i}"} for i in range(30))),
    "labels that are ids": only(*({"clause": "a", "type": f"{SECRET} {i}"} for i in range(30))),
}
TABLES: dict[str, Callable[[Path], object]] = {
    "no header": csv(f"{SECRET},rent\n{SECRET},term\n"),
    "no header and semicolons": csv(f"{SECRET};rent\n{SECRET};term\n"),
    "no header and one cell": csv(f"{SECRET}\n{SECRET}\n"),
    "too many cells": csv(f"clause,type\n{SECRET},{SECRET},{SECRET}\n"),
    "text after a quote": csv(f'clause,type\n"{SECRET}"{SECRET},b\n'),
    "a quote that stays open": csv(f'clause,type\n"{SECRET},b\n'),
    "a label without a text": csv(f"clause,type\n,{SECRET}\n"),
    "a text without a label": csv(f"clause,type\n{SECRET},\n"),
    "the same text twice in the header": csv(f"{SECRET},{SECRET}\na,b\n"),
}
PICTURE_COLUMNS: dict[str, Callable[[Path], object]] = {
    "a sentence": only({"image": f"Mrs {SECRET}, born 3.4.1950", "label": "a"}),
    "a long text": only({"image": SECRET * 1000, "label": "a"}),
    "a path": only({"image": f"{SECRET}.png", "label": "a"}),
    "base64": only({"image": base64.b64encode(SECRET.encode() * 99).decode(), "label": "a"}),
    "a text with a zero byte": only({"image": f"{SECRET}\0.png", "label": "a"}),
    "bytes that are a text": only({"image": {"bytes": SECRET}, "label": "a"}),
    "a path that is a list": only({"image": {"path": [SECRET]}, "label": "a"}),
    "an object": only({"image": {SECRET: SECRET}, "label": "a"}),
}
CHATS: dict[str, Callable[[Path], object]] = {
    "text": only({"chat": SECRET}),
    "a role": only({"chat": [{"role": SECRET, "content": SECRET}]}),
    "a key": only({"chat": [{SECRET: "user", "content": SECRET}]}),
    "content that is a list": only({"chat": [{"role": "user", "content": [SECRET]}]}),
    "no answer": only({"chat": [USER]}),
    "half a surrogate pair": only({"chat": [USER, {**ASSISTANT, "content": f"{SECRET}\ud800"}]}),
}
OTHERS: dict[str, tuple[Callable[[Path], object], str, Columns, Task, str | None]] = {
    "JSON in a list": (
        lambda folder: (folder / "t.json").write_text(f'[{{"clause": "{SECRET}"}} {SECRET}]'),
        "workspace://t.json",
        COLUMNS,
        "SequenceClassification",
        None,
    ),
    "an entry of a list": (
        lambda folder: (folder / "t.json").write_text(json.dumps([SECRET])),
        "workspace://t.json",
        COLUMNS,
        "SequenceClassification",
        None,
    ),
    "parquet with labels of one row": (
        parquet(*({"clause": SECRET, "type": f"{SECRET}{i}"} for i in range(30))),
        "workspace://t.parquet",
        COLUMNS,
        "SequenceClassification",
        None,
    ),
    "parquet with bytes that are no picture": (
        parquet({"image": SECRET.encode(), "label": "a"}),
        "workspace://t.parquet",
        PICTURES,
        "ImageClassification",
        None,
    ),
    "a parquet file that is none": (
        lambda folder: (folder / "t.parquet").write_text(SECRET * 9),
        "workspace://t.parquet",
        COLUMNS,
        "SequenceClassification",
        None,
    ),
    "a completion without a prompt": (
        only({"p": "", "c": SECRET}),
        "workspace://t.jsonl",
        Columns(prompt="p", completion="c"),
        "CausalLM",
        None,
    ),
    "a label of the evaluation": (
        evaluated({"clause": SECRET, "type": SECRET}),
        "workspace://t.jsonl",
        COLUMNS,
        "SequenceClassification",
        "workspace://e.jsonl",
    ),
    "metadata in CSV": (
        metadata("metadata.csv", {"file_name": f"{SECRET}.png", "label": SECRET}),
        "workspace://shop",
        PICTURES,
        "ImageClassification",
        None,
    ),
    "metadata in JSON lines": (
        metadata("metadata.jsonl", {"file_name": SECRET, "label": SECRET}),
        "workspace://shop",
        PICTURES,
        "ImageClassification",
        None,
    ),
    "metadata without the names of pictures": (
        metadata("metadata.csv", {SECRET: SECRET, "label": SECRET}),
        "workspace://shop",
        PICTURES,
        "ImageClassification",
        None,
    ),
}
CASES = [
    *(
        pytest.param(make, uri, columns, task, None, id=f"{kind}: {name}")
        for kind, makes, uri, columns, task in (
            ("JSON lines", TEXTS, "workspace://t.jsonl", COLUMNS, "SequenceClassification"),
            ("CSV", TABLES, "workspace://t.csv", COLUMNS, "SequenceClassification"),
            ("pictures", PICTURE_COLUMNS, "workspace://t.jsonl", PICTURES, "ImageClassification"),
            ("chats", CHATS, "workspace://t.jsonl", CHAT, "CausalLM"),
        )
        for name, make in makes.items()
    ),
    *(pytest.param(*case, id=name) for name, case in OTHERS.items()),
]


@pytest.mark.parametrize(("make", "uri", "columns", "task", "evaluation"), CASES)
def test_no_sentence_holds_what_a_row_says(
    make: Callable[[Path], object], uri: str, columns: Columns, task: Task, evaluation: str | None, tmp_path: Path
) -> None:
    paths = workspace(tmp_path)
    make(paths.workspace)
    with pytest.raises(InvalidError) as error:
        load_rows(dataset(uri, columns, evaluation), task, paths)
    assert SECRET.lower() not in str(error.value).lower()
    assert len(str(error.value)) < 2000


def test_no_note_holds_a_label_of_one_row(tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    write_jsonl(paths.workspace / "t.jsonl", [*CLAUSES, *({"clause": t, "type": t} for t in (SECRET, SECRET.lower()))])
    (note,) = load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths).notes
    assert note.startswith("dataset.columns.label: 2 labels of one row each differ only by case")


@pytest.mark.parametrize(
    ("complaint", "said"),
    [("'Roles must alternate'", "Roles must alternate"), ("'Unknown text ' + messages[0].content", "Unknown text")],
)
def test_a_chat_template_says_only_its_own_words(complaint: str, said: str) -> None:
    tokenizer = tiny.tokenizer(pad=True, template=f"{{{{ raise_exception({complaint}) }}}}")
    with pytest.raises(InvalidError, match=f"the chat template refuses t.jsonl:1 .*{said}") as error:
        Chat(tokenizer).supervised({"messages": [USER, ASSISTANT]}, "t.jsonl:1")
    assert SECRET not in str(error.value)
