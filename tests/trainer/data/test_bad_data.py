"""The message about wrong input is one sentence that names the field, the value and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
from PIL import Image
from trainer.fixtures_data import CLAUSES, COLUMNS, dataset, workspace, write_csv, write_jsonl, write_pictures

from finetune_trainer import contract
from finetune_trainer.contract import Columns, Task
from finetune_trainer.data.rows import load_rows
from finetune_trainer.errors import InvalidError

MESSAGES = Columns(messages="chat")
PICTURES = Columns(image="image", label="label")
NOTE = "Mrs Miller has had a fever since Monday and is allergic to w"
USER = {"role": "user", "content": "Hello"}


@dataclass(frozen=True)
class Case:
    """A case in which `make` writes files into the workspace, and loading `uri` must raise exactly `sentence`."""

    name: str
    make: Callable[[Path], object]
    sentence: str
    uri: str = "workspace://t.jsonl"
    columns: Columns = COLUMNS
    task: Task = "SequenceClassification"
    evaluation: str | None = None
    fraction: float = 0.3


def text(name: str, content: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return make


def line(number: int, content: str, name: str = "t.jsonl") -> Callable[[Path], object]:
    """Return a function that writes a file of good rows with `content` inserted as that line."""
    rows = [json.dumps(row) for row in CLAUSES]
    return text(name, "\n".join([*rows[: number - 1], content, *rows[number - 1 :]]))


def row(number: int, **changes: object) -> Callable[[Path], object]:
    """Return a function that writes t.jsonl with good rows and, at that line, a row with `changes`."""
    return line(number, json.dumps({**CLAUSES[0], **changes}))


def chat(messages: object) -> Callable[[Path], object]:
    return lambda folder: write_jsonl(folder / "t.jsonl", [{"chat": messages}])


def good(name: str) -> Callable[[Path], object]:
    return lambda folder: write_jsonl(folder / name, CLAUSES)


def all_of(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [make(folder) for make in makes]


def broken_picture(folder: Path) -> None:
    write_pictures(folder / "shop")
    file = folder / "shop/cup/3.png"
    file.write_bytes(file.read_bytes()[:40])


def deep_picture(folder: Path) -> None:
    write_pictures(folder / "shop")
    Image.new("I;16", (8, 8), 40_000).save(folder / "shop/cup/3.png")


def latin1_csv(folder: Path) -> None:
    (folder / "t.csv").write_bytes("clause,type\nfee,a\nno fee for Müller,b\n".encode("latin-1"))


CASES = [
    # the source
    Case(
        "a path that is not there",
        lambda folder: None,
        "dataset.uri: workspace://t.jsonl does not exist; put the data there or correct the URI",
    ),
    Case(
        "a path that is nearly there",
        good("contracts/train.jsonl"),
        "dataset.uri: workspace://contracts/trian.jsonl does not exist; is it workspace://contracts/train.jsonl?",
        uri="workspace://contracts/trian.jsonl",
    ),
    Case(
        "an evaluation path that is not there",
        good("t.jsonl"),
        "dataset.evaluation.uri: pvc://legal/e.csv does not exist; put the data there or correct the URI",
        evaluation="pvc://legal/e.csv",
    ),
    Case(
        "an empty file",
        text("t.jsonl", ""),
        "dataset.uri: workspace://t.jsonl is empty; put at least two rows there or correct the URI",
    ),
    Case(
        "a file of blank lines",
        text("t.jsonl", "\n \n\n"),
        "dataset.uri: workspace://t.jsonl is empty; put at least two rows there or correct the URI",
    ),
    Case(
        "a table with a header alone",
        text("t.csv", "clause,type\n"),
        "dataset.uri: workspace://t.csv is empty; put at least two rows there or correct the URI",
        uri="workspace://t.csv",
    ),
    Case(
        "an empty parquet file",
        text("t.parquet", ""),
        "dataset.uri: workspace://t.parquet is empty; put at least two rows there or correct the URI",
        uri="workspace://t.parquet",
    ),
    Case(
        "an empty evaluation file",
        all_of(good("t.jsonl"), text("e.json", "[]")),
        "dataset.evaluation.uri: workspace://e.json is empty; put at least two rows there or correct the URI",
        evaluation="workspace://e.json",
    ),
    Case(
        "a type that is not known",
        text("t.xlsx", "PK"),
        "dataset.uri: workspace://t.xlsx has type .xlsx, which is not known; "
        "give jsonl, json, csv, tsv, parquet or arrow, or a folder of them or of pictures",
        uri="workspace://t.xlsx",
    ),
    Case(
        "a file without a suffix",
        text("data", "{}"),
        "dataset.uri: workspace://data has no suffix, so its type is not known; "
        "give jsonl, json, csv, tsv, parquet or arrow, or a folder of them or of pictures",
        uri="workspace://data",
    ),
    Case(
        "a folder without data",
        text("d/notes.md", "x"),
        "dataset.uri: folder workspace://d holds no jsonl, json, csv, tsv, parquet or arrow file and no picture; "
        "put the data there or correct the URI",
        uri="workspace://d",
    ),
    Case(
        "a folder of two types",
        all_of(good("d/a.jsonl"), lambda folder: write_csv(folder / "d/b.csv", CLAUSES)),
        "dataset.uri: folder workspace://d mixes csv and jsonl files; keep one type or name one file",
        uri="workspace://d",
    ),
    Case(
        "a folder of splits",
        all_of(good("d/train.jsonl"), good("d/test.jsonl")),
        "dataset.uri: folder workspace://d holds the splits train.jsonl, test.jsonl; name one of them as dataset.uri, "
        "as in workspace://d/train.jsonl, and another one as dataset.evaluation.uri, as in workspace://d/test.jsonl",
        uri="workspace://d",
    ),
    # malformed
    Case(
        "a malformed line",
        line(7, '{"clause": "The tenant", "type": }'),
        "dataset.uri: workspace://t.jsonl line 7 is not JSON (Expecting value at column 34); mend or remove that line",
    ),
    Case(
        "a malformed line in a folder's file",
        line(3, "{", name="d/t.jsonl"),
        "dataset.uri: workspace://d/t.jsonl line 3 is not JSON "
        "(Expecting property name enclosed in double quotes at column 2); mend or remove that line",
        uri="workspace://d/",
    ),
    Case(
        "a line that is no object",
        line(2, '"The tenant"'),
        "dataset.uri: workspace://t.jsonl line 2 is not a JSON object; write one {…} per line",
    ),
    Case(
        "a malformed list",
        text("t.json", '[\n{"clause": "a", "type": 1},\n{"clause" "b"}\n]'),
        "dataset.uri: workspace://t.json line 3 is not JSON (Expecting ':' delimiter at column 11); mend that line",
        uri="workspace://t.json",
    ),
    Case(
        "one object over many lines",
        text("t.json", '{\n "rows": []\n}\n'),
        "dataset.uri: workspace://t.json is one JSON object; write a list of objects, or one object on each line",
        uri="workspace://t.json",
    ),
    Case(
        "a row with too many cells",
        text("t.csv", "clause,type\nfee,a\nno fee, never,b\n"),
        "dataset.uri: workspace://t.csv line 3 has 3 cells where the header has 2; "
        "mend that line or quote the cells that hold commas",
        uri="workspace://t.csv",
    ),
    Case(
        "two columns of one name",
        text("t.csv", "clause,type,clause\nfee,a,b\nno fee,b,c\n"),
        "dataset.uri: workspace://t.csv has the same name over columns 1 and 3; rename one",
        uri="workspace://t.csv",
    ),
    Case(
        "a quote that is never closed",
        text("t.csv", 'clause,type\nfee,a\n"no fee,b\n'),
        "dataset.uri: workspace://t.csv line 3 is not CSV (unexpected end of data); mend or remove that line",
        uri="workspace://t.csv",
    ),
    Case(
        "a file in another encoding",
        latin1_csv,
        "dataset.uri: workspace://t.csv line 3 is not UTF-8 text; save the file as UTF-8",
        uri="workspace://t.csv",
    ),
    Case(
        "a parquet file that is none",
        text("t.parquet", "clause"),
        "dataset.uri: workspace://t.parquet cannot be read as parquet (Parquet file size is 6 bytes, smaller than the "
        "minimum file footer (8 bytes)); write the file again",
        uri="workspace://t.parquet",
    ),
    # columns
    Case(
        "a column that is not there",
        good("t.jsonl"),
        "dataset.columns.text: workspace://t.jsonl has no column 'clauses'; its columns are clause, type",
        columns=Columns(text="clauses", label="type"),
    ),
    Case(
        "a label column that is not there",
        lambda folder: write_csv(folder / "t.csv", CLAUSES),
        "dataset.columns.label: workspace://t.csv has no column 'typ'; its columns are type, clause",
        uri="workspace://t.csv",
        columns=Columns(text="clause", label="typ"),
    ),
    Case(
        "a column that the evaluation lacks",
        all_of(good("t.jsonl"), lambda folder: write_jsonl(folder / "e.jsonl", [{"clause": "x", "kind": "rent"}])),
        "dataset.columns.label: workspace://e.jsonl has no column 'type'; its columns are clause, kind",
        evaluation="workspace://e.jsonl",
    ),
    Case(
        "a task whose columns are not named",
        good("t.jsonl"),
        "dataset.columns: CausalLM needs text, or messages, or prompt with completion; name the columns",
        columns=Columns(prompt="clause"),
        task="CausalLM",
    ),
    Case(
        "a label column that is not named",
        good("t.jsonl"),
        "dataset.columns: SequenceClassification needs text and label; name the columns",
        columns=Columns(text="clause"),
    ),
    # rows
    Case(
        "a text that is null",
        row(4, clause=None),
        "dataset.columns.text: t.jsonl:4: column 'clause' is empty; fill it in or remove the row",
    ),
    Case(
        "a text of spaces",
        row(5, clause=" \n"),
        "dataset.columns.text: t.jsonl:5: column 'clause' is empty; fill it in or remove the row",
    ),
    Case(
        "a text that is a number",
        row(6, clause=12),
        "dataset.columns.text: t.jsonl:6: column 'clause' holds a number, not text; "
        "write it as a string or name another column",
    ),
    Case(
        "a text that is no Unicode",
        line(2, '{"clause": "\\ud800", "type": "rent"}'),
        "dataset.columns.text: t.jsonl:2: column 'clause' holds half a surrogate pair, which is no character; "
        "mend or remove the row",
    ),
    Case(
        "a completion that is empty",
        lambda folder: write_jsonl(folder / "t.jsonl", [{"q": "a", "a": "b"}, {"q": "a", "a": ""}]),
        "dataset.columns.completion: t.jsonl:2: column 'a' is empty; fill it in or remove the row",
        columns=Columns(prompt="q", completion="a"),
        task="CausalLM",
    ),
    Case(
        "a label that is missing",
        line(9, '{"clause": "x"}'),
        "dataset.columns.label: t.jsonl:9: column 'type' has no label; fill it in or remove the row",
    ),
    Case(
        "a label that is a list",
        row(3, type=["rent"]),
        "dataset.columns.label: t.jsonl:3: column 'type' holds a list; a label is a name or a number",
    ),
    Case(
        "a label that is no Unicode",
        line(2, '{"clause": "x", "type": "\\ud800"}'),
        "dataset.columns.label: t.jsonl:2: column 'type' holds half a surrogate pair, which is no character; "
        "mend or remove the row",
    ),
    # text of a row where a name is expected
    Case(
        "a table without header",
        text("t.csv", f"{NOTE},rent\n{NOTE},term\n"),
        "dataset.columns.text: workspace://t.csv has no column 'clause'; it seems to have no header, for no cell of "
        "its first line is like a name in dataset.columns; put the names of the columns above the rows or correct "
        "dataset.columns",
        uri="workspace://t.csv",
    ),
    Case(
        "texts named as labels",
        all_of(good("t.jsonl"), lambda folder: write_jsonl(folder / "e.jsonl", [{"clause": "x", "type": NOTE}])),
        "dataset.evaluation.uri: label of 60 characters at e.jsonl:1 occurs in no training row; "
        "add such rows to workspace://t.jsonl or remove it here",
        evaluation="workspace://e.jsonl",
    ),
    Case(
        "a text named as role",
        chat([{"role": NOTE, "content": "Hi"}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has a role of 60 characters in message 1; "
        "write one such as user",
        columns=MESSAGES,
        task="CausalLM",
    ),
    # labels and sides
    Case(
        "one class only",
        lambda folder: write_jsonl(
            folder / "t.jsonl", [{"clause": "x", "type": "rent"}, {"clause": "y", "type": "rent"}]
        ),
        "dataset.columns.label: all 2 training rows have the label 'rent' in column 'type'; "
        "give rows of at least two classes or name another column",
        evaluation="workspace://t.jsonl",
    ),
    Case(
        "an evaluation label that is never learned",
        all_of(
            good("t.jsonl"),
            lambda folder: write_jsonl(folder / "e.jsonl", [CLAUSES[0], {"clause": "x", "type": "fee"}]),
        ),
        "dataset.evaluation.uri: label of 3 characters at e.jsonl:2 occurs in no training row; "
        "add such rows to workspace://t.jsonl or remove it here",
        evaluation="workspace://e.jsonl",
    ),
    Case(
        "too few rows to hold any out",
        lambda folder: write_jsonl(folder / "t.jsonl", CLAUSES[:3]),
        "dataset.evaluation.fraction: 0.01 of 3 rows leaves none to measure on; "
        "give a larger fraction, more rows, or dataset.evaluation.uri",
        fraction=0.01,
    ),
    Case(
        "rows that are all equal and held out",
        lambda folder: write_jsonl(folder / "t.jsonl", [CLAUSES[0]] * 5),
        "dataset.evaluation.fraction: 0.99 of 5 rows leaves none to learn from; "
        "give a smaller fraction, more rows that differ, or dataset.evaluation.uri",
        fraction=0.99,
    ),
    # messages
    Case(
        "messages that are a text",
        chat("Hello"),
        "dataset.columns.messages: t.jsonl:1: column 'chat' holds text; "
        "write a list of {role, content} objects with strings",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "a message without content",
        chat([USER, {"role": "assistant"}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has message 2 without role and content as strings; "
        "write a list of {role, content} objects with strings",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "a role of another format",
        chat([USER, {"role": "gpt", "content": "Hi"}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has role 'gpt' in message 2; "
        "chat templates call it 'assistant', so rename it",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "messages in which nobody answers",
        chat([USER]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has no assistant message with content, "
        "so nothing to learn; add one or remove the row",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "messages of ShareGPT",
        chat([{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has message 1 with from and value instead of role and "
        "content; rename these keys, and the roles human to user and gpt to assistant",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "a weight between 0 and 1",
        chat([USER, {"role": "assistant", "content": "Hi", "weight": 0.5}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has weight 0.5 in message 2; "
        "write 0 to leave the message out, or 1 to learn it",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "a weight that is a text",
        chat([USER, {"role": "assistant", "content": "Hi", "weight": NOTE}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has a weight that is not a number in message 2; "
        "write 0 to leave the message out, or 1 to learn it",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "messages whose answers all have weight 0",
        chat([USER, {"role": "assistant", "content": "Hi", "weight": 0}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' gives weight 0 to every message of the assistant, "
        "so nothing to learn; give one of them weight 1 or remove the row",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "a message with a picture",
        chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has a part in message 1 that is not of type text; "
        "a language model reads text only, so remove the part or the row",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "tool calls that are a text",
        chat([USER, {"role": "assistant", "tool_calls": NOTE}]),
        "dataset.columns.messages: t.jsonl:1: column 'chat' has tool_calls in message 2 that are not a list of "
        "objects; write such a list",
        columns=MESSAGES,
        task="CausalLM",
    ),
    Case(
        "tools that are names",
        lambda folder: write_jsonl(
            folder / "t.jsonl", [{"chat": [USER, {"role": "assistant", "content": "Hi"}], "tools": ["look"]}]
        ),
        "dataset.columns.messages: t.jsonl:1: column 'chat': tools of the row is not a list of objects; "
        "write such a list or rename it",
        columns=MESSAGES,
        task="CausalLM",
    ),
    # pictures
    Case(
        "a picture that is cut off",
        broken_picture,
        "dataset.columns.image: picture cup/3.png cannot be decoded; replace or remove it",
        uri="workspace://shop",
        columns=PICTURES,
        task="ImageClassification",
    ),
    Case(
        "a picture of 16 bits",
        deep_picture,
        "dataset.columns.image: picture cup/3.png has more than 8 bits per channel, which models cannot read; "
        "scale it to 8 bits",
        uri="workspace://shop",
        columns=PICTURES,
        task="ImageClassification",
    ),
    Case(
        "a picture that is not there",
        lambda folder: write_jsonl(folder / "t.jsonl", [{"image": "p/1.png", "label": "cup"}]),
        "dataset.columns.image: picture t.jsonl:1 cannot be read (No such file or directory); "
        "paths are relative to the file that names them",
        columns=PICTURES,
        task="ImageClassification",
    ),
    Case(
        "a picture column that is empty",
        lambda folder: write_jsonl(folder / "t.jsonl", [{"image": None, "label": "cup"}]),
        "dataset.columns.image: t.jsonl:1: column 'image' is empty; give the path or the bytes of a picture",
        columns=PICTURES,
        task="ImageClassification",
    ),
    Case(
        "pictures of one class only",
        lambda folder: write_pictures(folder / "shop", classes=("cup",)),
        "dataset.columns.label: all 8 training rows have the label 'cup' in column 'label'; "
        "give rows of at least two classes or name another column",
        uri="workspace://shop",
        columns=PICTURES,
        task="ImageClassification",
        evaluation="workspace://shop",
    ),
    Case(
        "a picture of bytes that are none",
        lambda folder: datasets.Dataset.from_list([{"image": b"GIF89a", "label": 1}]).to_parquet(
            str(folder / "t.parquet")
        ),
        "dataset.columns.image: picture t.parquet:1 cannot be decoded; replace or remove it",
        uri="workspace://t.parquet",
        columns=PICTURES,
        task="ImageClassification",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_data_is_one_sentence(case: Case, tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    case.make(paths.workspace)
    with pytest.raises(InvalidError) as error:
        load_rows(dataset(case.uri, case.columns, case.evaluation, case.fraction), case.task, paths)
    assert str(error.value) == case.sentence
    assert str(tmp_path) not in case.sentence


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = workspace(tmp_path)
    write_jsonl(paths.workspace / "t.jsonl", CLAUSES)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("workspace://t.jsonl"), "SequenceClassification", paths)
    assert str(error.value) == (
        "dataset.uri: workspace://t.jsonl cannot be read (Permission denied); check its permissions"
    )


def test_a_hub_data_set_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("no")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InvalidError) as error:
        load_rows(dataset("hf://acme/clauses"), "SequenceClassification", workspace(tmp_path))
    assert str(error.value) == (
        "dataset.uri: hf://acme/clauses is not on the hub or not open to this token; "
        "correct the name or set model.secretName"
    )


def test_a_data_set_without_evaluation_rows_is_refused(tmp_path: Path) -> None:
    data = contract.Dataset(source=contract.Source(uri="workspace://t.jsonl"), columns=COLUMNS)
    with pytest.raises(InvalidError, match=r"dataset\.evaluation: gives neither fraction nor uri"):
        load_rows(data, "SequenceClassification", workspace(tmp_path))
