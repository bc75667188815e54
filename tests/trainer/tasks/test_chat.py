"""Which tokens of a chat are supervised, which values a template gets, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers
from trainer import chat_templates, tiny
from trainer.chat_templates import answers, tokenizer

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.chat import Chat

CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "good day"},
    {"role": "user", "content": "what is the weather ?"},
    {"role": "assistant", "content": "it is sunny"},
]
ARGUMENTS = '{"city": "Vienna"}'
CALLING = [
    {"role": "user", "content": "weather ?"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "it is sunny"},
]
LEARNED = {
    "CHATML": ["good day<|im_end|>", "it is sunny<|im_end|>"],
    "LLAMA3": ["good day<|eot_id|>", "it is sunny<|eot_id|>"],
    "MISTRAL": [" good day</s>", " it is sunny</s>"],
    "GEMMA": ["good day<end_of_turn>", "it is sunny<end_of_turn>"],
    "PHI3": ["good day<|end|>", "it is sunny<|end|>"],
    "GLM4": ["good day<|user|>", "it is sunny</s>"],
    "END_BEFORE_USER": [" good day</s>", " it is sunny</s>"],
    "END_BY_TEXT": [" good day ##\n", " it is sunny ##\n</s>"],
    "QWEN3": ["good day<|im_end|>", "<think>\n\n</think>\n\nit is sunny<|im_end|>"],
    "DEEPSEEK": ["good day</s>", "it is sunny</s>"],
    "GPT_OSS": [
        "<|channel|>final<|message|>good day<|end|>",
        "<|channel|>final<|message|>it is sunny<|return|>",
    ],
    "IN_PARTS": ["good day<|im_end|>", "it is sunny<|im_end|>"],
    "MARKED": ["good day<|im_end|>", "it is sunny<|im_end|>"],
}
"""The texts of CHAT that are supervised, by template: the answers and the ends of their turns."""


def template(name: str) -> str:
    found: str = getattr(chat_templates, name)
    return found


@pytest.mark.parametrize("name", LEARNED)
def test_answers_and_what_ends_them_are_learned(name: str) -> None:
    assert answers(tokenizer(template(name)), CHAT) == LEARNED[name]


@pytest.mark.parametrize("kind", chat_templates.KINDS)
@pytest.mark.parametrize("name", LEARNED)
def test_a_tokenizer_that_adds_or_drops_blanks_learns_the_same(name: str, kind: str) -> None:
    found = answers(tokenizer(template(name), kind), CHAT)
    assert ["".join(answer.split()) for answer in found] == ["".join(answer.split()) for answer in LEARNED[name]]


@pytest.mark.parametrize("name", LEARNED)
def test_later_rows_learn_what_the_first_one_did(name: str) -> None:
    """Later rows may be encoded in a faster way."""
    made = tokenizer(template(name))
    chat = Chat(made)
    longer = [{"role": m["role"], "content": f"{m['content']} {n}"} for n, m in enumerate(CHAT * 2)]
    conversations = [CHAT[:2], CHAT, longer, [*CHAT, CHAT[0]], CHAT[:2], CHAT, longer, [*CHAT, CHAT[0]]]
    if name == "END_BY_TEXT":
        conversations = [CHAT, longer] * 2
    together = [answers(made, conversation, chat) for conversation in conversations]
    assert together == [answers(made, conversation) for conversation in conversations]


def test_an_answer_that_quotes_the_end_of_a_turn_is_learned_to_its_own_end() -> None:
    made = tokenizer(chat_templates.CHATML)
    chat = Chat(made)
    quoting = [CHAT[0], {"role": "assistant", "content": "the answer <|im_end|> is one"}]
    assert answers(made, CHAT[:2], chat) == ["good day<|im_end|>"]
    assert answers(made, quoting, chat) == ["the answer <|im_end|> is one<|im_end|>"]


def test_an_assistant_that_speaks_first_is_learned_without_its_heading() -> None:
    assert answers(tokenizer(chat_templates.CHATML), [CHAT[1], *CHAT[:2]]) == ["good day<|im_end|>"] * 2


# ---- the end of a turn ----------------------------------------------------------------------------------------------


def test_a_single_answer_without_an_end_gets_the_end_of_text() -> None:
    assert answers(tokenizer(chat_templates.NO_END), CHAT[:2]) == [" good day\n</s>"]


def test_an_earlier_answer_without_an_end_is_refused_unless_it_is_not_learned() -> None:
    made = tokenizer(chat_templates.NO_END)
    with pytest.raises(InvalidError, match=r"nothing that ends message 2 of rows\.jsonl:1, .* or give that message we"):
        answers(made, CHAT)
    assert answers(made, {"messages": [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]}) == [" it is sunny\n</s>"]


def test_an_answer_without_an_end_is_refused_when_the_tokenizer_has_none() -> None:
    with pytest.raises(InvalidError, match="nothing that ends message 2"):
        answers(tokenizer(chat_templates.NO_END, eos_token=None), CHAT[:2])


def test_thoughts_that_end_as_a_turn_does_are_learned_with_the_answer() -> None:
    conversation = [*CHAT[:3], {**CHAT[3], "reasoning_content": "one two"}]
    assert answers(tokenizer(chat_templates.GPT_OSS), conversation) == [
        "<|channel|>final<|message|>good day<|end|>",
        "<|channel|>analysis<|message|>one two<|end|>"
        "<|start|>assistant<|channel|>final<|message|>it is sunny<|return|>",
    ]


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CHATML", "MARKED", "QWEN3", "MISTRAL"])
def test_a_message_of_weight_0_is_read_but_not_learned(name: str) -> None:
    made = tokenizer(template(name))
    weighted = {"messages": [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]}
    chat = Chat(made)
    for _ in range(2):
        assert answers(made, weighted, chat) == LEARNED[name][1:]
    assert chat.supervised(weighted, "r").ids == chat.supervised({"messages": CHAT}, "r").ids
    assert chat.notes == []


# ---- generation marks in the template -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_marks_that_leave_out_the_end_learn_it_all_the_same(kind: str) -> None:
    endless = chat_templates.MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    found = answers(tokenizer(endless, kind), CHAT)
    assert ["".join(answer.split()) for answer in found] == ["goodday<|im_end|>", "itissunny<|im_end|>"]


@pytest.mark.parametrize("kind", chat_templates.KINDS)
def test_marks_that_begin_with_a_blank_lose_nothing(kind: str) -> None:
    blank = chat_templates.MARKED.replace("{% generation %}", "{% generation %} ")
    found = answers(tokenizer(blank, kind), CHAT)
    assert ["".join(answer.split()) for answer in found] == ["goodday<|im_end|>", "itissunny<|im_end|>"]


def test_marks_that_reach_beyond_the_turn_learn_no_more() -> None:
    wide = chat_templates.MARKED.replace("<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}", "").replace(
        "{% generation %}", "{% if m['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
    )
    wide = wide.replace("{% else %}{{ m['content']", "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content']")
    wide = wide.replace("{% endgeneration %}", "\n{% endgeneration %}")
    assert answers(tokenizer(wide), CHAT) == LEARNED["MARKED"]


def test_marks_may_leave_out_thoughts() -> None:
    thinking = chat_templates.MARKED.replace("{% generation %}", "<think>{{ m.thinking }}</think>{% generation %}")
    conversation = [CHAT[0], {**CHAT[1], "thinking": "one two"}]
    assert answers(tokenizer(thinking), conversation) == ["good day<|im_end|>"]


@pytest.mark.parametrize("text", [chat_templates.MARKED, chat_templates.CHATML], ids=["marked", "not marked"])
def test_a_tokenizer_without_a_fast_implementation_learns_the_same(text: str) -> None:
    made = transformers.ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    made.chat_template = text
    assert not made.is_fast
    assert answers(made, CHAT) == LEARNED["CHATML"]


def test_marks_that_leave_nothing_to_learn_are_refused() -> None:
    unmarked = chat_templates.MARKED.replace("{{ m['content'] }}<|im_end|>{% endgeneration %}", "{% endgeneration %}x")
    with pytest.raises(InvalidError, match=r"marks nothing .* in rows\.jsonl:1"):
        answers(tokenizer(unmarked), CHAT)


# ---- values that the template gets ----------------------------------------------------------------------------------


def shown(made: Any, conversation: Any) -> str:
    """Return the conversation as the model reads it."""
    text: str = made.decode(Chat(made).supervised(conversation, "rows.jsonl:1").ids)
    return text


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.loads(ARGUMENTS)], ids=["as text", "as object"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("QWEN3", '\n<tool_call>\n{"name": "look", "arguments": {"city": "Vienna"}}\n</tool_call><|im_end|>'),
        ("DEEPSEEK", 'look\n{"city": "Vienna"}</s>'),
        (
            "MISTRAL",
            '[TOOL_CALLS] [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '
            '{"city": "Vienna"}}}]</s>',
        ),
    ],
)
def test_a_tool_call_is_learned_as_the_model_has_to_write_it(name: str, call: str, arguments: Any) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}]
    conversation = [CALLING[0], {"role": "assistant", "tool_calls": calls}]
    assert answers(tokenizer(template(name)), conversation)[0].endswith(call)


def test_tools_of_the_row_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    made = tokenizer(chat_templates.QWEN3)
    assert shown(made, {"messages": CALLING, "tools": tools}).startswith(
        f"<|im_start|>system\n{json.dumps(tools[0])}\n<|im_end|>\n"
    )


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_are_learned_under_each_of_their_names(key: str) -> None:
    conversation = [CHAT[0], {**CHAT[1], key: "one two"}]
    assert answers(tokenizer(chat_templates.QWEN3), conversation) == [
        "<think>\none two\n</think>\n\ngood day<|im_end|>"
    ]


def test_parts_are_given_as_one_text_to_a_template_that_expects_it() -> None:
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "day"}]
    conversation = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}, {**CHAT[1], "content": parts}]
    for name in ("CHATML", "LLAMA3"):
        assert shown(tokenizer(template(name)), {"messages": conversation}) == shown(
            tokenizer(template(name)), {"messages": CHAT[:2]}
        )


def test_parts_are_given_as_they_are_to_a_template_that_goes_through_them() -> None:
    iterating = chat_templates.CHATML.replace(
        "{{ m['content'] }}", "{% for part in m['content'] %}({{ part.text }}){% endfor %}"
    )
    parts = [{"type": "text", "text": "good"}, {"type": "text", "text": "day"}]
    assert answers(tokenizer(iterating), [{**CHAT[0], "content": parts}, {**CHAT[1], "content": parts}]) == [
        "(good)(day)<|im_end|>"
    ]


def test_an_unknown_role_is_what_the_template_makes_of_it() -> None:
    conversation = [{"role": "developer", "content": "be warm"}, *CHAT[:2]]
    made = tokenizer(chat_templates.CHATML)
    assert shown(made, {"messages": conversation}).startswith("<|im_start|>developer\nbe warm<|im_end|>")
    with pytest.raises(InvalidError, match=r"refuses rows\.jsonl:1 \(Conversation roles must alternate"):
        answers(tokenizer(chat_templates.MISTRAL), conversation)


# ---- keys that the template does not use ----------------------------------------------------------------------------


def test_a_key_that_the_template_does_not_use_is_noted_once_with_its_rows() -> None:
    made = tokenizer(chat_templates.QWEN3)
    chat = Chat(made)
    named = {"messages": [{**CHAT[0], "name": "ann"}, CHAT[1]]}
    for conversation in (named, {"messages": CHAT}, {"messages": CALLING}, named):
        chat.supervised(conversation, "rows.jsonl:1")
    beginning = "dataset.columns.messages: the chat template of the model does not use "
    assert chat.notes == [f"{beginning}'name', which 2 rows have", f"{beginning}'tool_call_id', which 1 row has"]


def test_a_key_that_one_row_shows_to_be_used_is_not_noted() -> None:
    by_tool = chat_templates.CHATML.replace("{{ m['content'] }}", "{% if m.role == 'tool' %}{{ m.name }}{% endif %}x")
    chat = Chat(tokenizer(by_tool))
    chat.supervised({"messages": [{**CHAT[0], "name": "ann"}, CHAT[1]]}, "r")
    chat.supervised({"messages": [{"role": "tool", "content": "1", "name": "look"}, *CHAT]}, "r")
    assert chat.notes == []


@pytest.mark.parametrize("content", [{}, {"content": ""}, {"content": " \n"}], ids=["no content", "empty", "blank"])
def test_a_tool_call_that_would_be_learned_as_silence_is_refused(content: dict[str, str]) -> None:
    conversation = [CALLING[0], {**CALLING[1], **content}, *CALLING[2:]]
    with pytest.raises(InvalidError) as error:
        answers(tokenizer(chat_templates.CHATML), conversation)
    assert str(error.value) == (
        "dataset.columns.messages: rows.jsonl:1: the model's chat template does not write tool_calls; "
        "use a model whose template does, or remove the row"
    )


def test_an_answer_of_which_nothing_is_written_is_refused() -> None:
    mute = chat_templates.CHATML.replace("{{ m['content'] }}", "{{ m['content'] if m['role'] == 'user' else '' }}")
    with pytest.raises(InvalidError, match="does not write content"):
        answers(tokenizer(mute), CHAT)


def test_a_tool_call_that_is_not_learned_need_not_be_written() -> None:
    conversation = {"messages": [CALLING[0], {**CALLING[1], "weight": 0}, *CALLING[2:]]}
    assert answers(tokenizer(chat_templates.CHATML), conversation) == ["it is sunny<|im_end|>"]


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(InvalidError, match=r"dataset\.columns\.messages: .* no chat template"):
        Chat(tiny.tokenizer(pad=True, template=None))


@pytest.mark.parametrize(
    ("refusing", "complaint"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ raise_exception('I dislike the text ' + messages[0].content) }}", "I dislike the text …"),
        ("{{ raise_exception(messages[2].content) }}", "TemplateError"),
        ("{{ {}[messages[2].content].at_all }}", "UndefinedError"),
        ("{{ messages[0].content | int + [] }}", "unsupported operand type(s) for +: 'int' and 'list'"),
        ("{{ messages.nothing.at_all }}", "'list object' has no attribute 'nothing'"),
    ],
)
def test_a_template_that_refuses_a_row_names_the_row_and_never_its_text(refusing: str, complaint: str) -> None:
    with pytest.raises(InvalidError) as error:
        answers(tokenizer(refusing), CHAT)
    assert str(error.value) == (
        f"dataset.columns.messages: the chat template refuses rows.jsonl:1 ({complaint}); change or remove the row"
    )
