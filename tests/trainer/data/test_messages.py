"""Which parts of a conversation are kept, and which parts decide between training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from trainer.fixtures_data import dataset, workspace, write_jsonl

from finetune_trainer.contract import Columns
from finetune_trainer.data.messages import conversation
from finetune_trainer.data.rows import load_rows

PLAIN = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Vienna"}'}}
CALLING = [
    {"role": "user", "content": [{"type": "text", "text": "weather?"}], "name": "ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "I look"},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny", "weight": 1},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"default": None}}}]


def kept(messages: list[Any], row_id: str = "t.jsonl:1", **row: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(conversation(messages, row, row_id, "here")[0])
    return found


def test_every_key_of_a_message_is_kept() -> None:
    assert kept(CALLING) == {
        "messages": [
            CALLING[0],
            {key: CALLING[1][key] for key in ("role", "tool_calls", "reasoning_content")},
            CALLING[2],
            {"role": "assistant", "content": "It is sunny"},
        ]
    }


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "JSON text"])
def test_tools_and_documents_beside_the_messages_are_kept(tools: Any) -> None:
    documents = [{"title": "a", "text": "b"}]
    assert kept(PLAIN, tools=tools, documents=documents, other=1) == {
        "messages": PLAIN, "tools": TOOLS, "documents": documents
    }  # fmt: skip
    assert kept(PLAIN, tools=[], documents=None) == {"messages": PLAIN}


def test_only_a_weight_of_0_is_kept() -> None:
    weighted = [*PLAIN, {**PLAIN[0], "weight": 1.0}, {**PLAIN[1], "weight": 0}]
    assert [message.get("weight") for message in kept(weighted)["messages"]] == [None, None, None, 0]


@pytest.mark.parametrize("row_id", ["t.parquet:1", "train:1"])
def test_nulls_with_which_arrow_fills_up_are_no_keys(row_id: str) -> None:
    arguments = {"city": "Vienna", "street": None}
    messages = [PLAIN[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": arguments}}]}]
    calls = kept(messages, row_id)["messages"][1]["tool_calls"]
    assert calls == [{"function": {"arguments": {"city": "Vienna"}}}]
    assert kept(messages)["messages"][1]["tool_calls"] == [{"function": {"arguments": arguments}}]


def test_rows_of_role_and_content_are_divided_by_the_digest_of_their_json() -> None:
    _, read = conversation([{**PLAIN[0]}, {"content": "Hi", "role": "assistant", "weight": 1}], {}, "t.jsonl:1", "here")
    assert read == '[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]'


def test_a_weight_does_not_move_a_row_to_the_other_side_but_tools_are_part_of_what_is_read() -> None:
    several = [*PLAIN, *PLAIN]
    weighted = [PLAIN[0], {**PLAIN[1], "weight": 0}, *PLAIN]
    assert conversation(weighted, {}, "t.jsonl:1", "here")[1] == conversation(several, {}, "t.jsonl:1", "here")[1]
    assert conversation(PLAIN, {"tools": TOOLS}, "t.jsonl:1", "here")[1] != json.dumps(PLAIN)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_messages_of_unequal_keys_are_read_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    paths = workspace(tmp_path)
    messages = [{**message, "content": message["content"] or ""} for message in CALLING[1:]]
    rows = [{"m": [{"role": "user", "content": str(n)}, *messages], "tools": json.dumps(TOOLS)} for n in range(20)]
    if name == "t.jsonl":
        write_jsonl(paths.workspace / name, rows)
    else:
        datasets.Dataset.from_list(rows).to_parquet(str(paths.workspace / name))
    loaded = load_rows(dataset(f"workspace://{name}", Columns(messages="m")), "CausalLM", paths)
    found = [json.loads(text) for text in (*loaded.train["messages"], *loaded.evaluation["messages"])]
    assert sorted(int(row["messages"][0]["content"]) for row in found) == list(range(20))
    for row in found:
        assert row["tools"] == TOOLS
        assert row["messages"][1:] == [
            {key: part for key, part in message.items() if key != "weight"} for message in messages
        ]
