"""Renders conversations with the chat template of a tokenizer.

Templates differ in four points, and the data has one form of each, so the form is changed if the template needs the
other one. The template shows what it needs when it is rendered: with a wrong form it fails, or writes the Python
representation of an object.

- `tool_calls[].function.arguments` is a JSON text in OpenAI's files. transformers passes it to the template unchanged,
  its documentation asks for an object, and most templates expect one: Qwen2.5's, Llama 3.1's and Mistral's apply
  `tojson`, which would quote a text a second time, and Qwen3-Coder's iterates over the keys. So an object is tried
  first. DeepSeek's templates concatenate the arguments and need the text.
- `content` as a list of parts: templates of models that read images iterate over the parts. Other templates get the
  parts as one text.
- `content` as a text: some templates that expect parts iterate over its characters and write nothing. They get a list
  of one part.
- `content` that is missing beside `tool_calls`: most templates handle it. The others get an empty text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2.exceptions import UndefinedError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_trainer.errors import InvalidError

GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag with which a chat template marks the assistant's output."""
QUOTED = re.compile("'([^']*)'")
PYTHON_OBJECT = " object"
LONGEST_COMPLAINT, SHORTEST_COMPLAINT = 200, 10
"""The greatest and the smallest length, in characters, of a template's own error message that is quoted."""

Message = Mapping[str, Any]

PLAIN: list[dict[str, Any]] = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
"""A conversation for tests of the template's behaviour."""


class Form(NamedTuple):
    """The form in which a conversation is passed to the template."""

    arguments_as_text: bool = False
    parts_as_text: bool = False
    missing_as_empty: bool = False


@dataclass(frozen=True)
class Written:
    """A conversation and the text that the template renders for it."""

    messages: list[dict[str, Any]]
    """The messages as they were passed to the template."""
    beside: dict[str, Any]
    """The row's `tools` and `documents`, if it has them."""
    text: str
    marked: list[tuple[int, int]] | None
    """The ranges, in characters, that the template marks as the assistant's; None if the template has no marks."""


class ChatTemplate:
    """The chat template of a tokenizer, and the form of messages that it needs.

    Raises InvalidError if the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise InvalidError(
                "dataset.columns.messages: the model's tokenizer has no chat template; use a model that has one, "
                "or the columns prompt and completion"
            )
        self._tokenizer = tokenizer
        self._form = Form()
        self._needs_parts = not self._writes_answer_of(PLAIN) and self._writes_answer_of(_in_parts(PLAIN))

    def written(self, messages: list[dict[str, Any]], beside: dict[str, Any], row: str) -> Written:
        """Render a whole conversation. Raises InvalidError, which names the row, if the template refuses it."""
        complaint = None
        if self._needs_parts:
            messages = _in_parts(messages)
        for form in self._forms(messages):
            given = [_formed(message, form) for message in messages]
            try:
                text, marked = self._render(given, beside)
            except Exception as error:  # A template is a program of the model's author and may raise anything.
                complaint = complaint or self._complaint(error, beside)
                continue
            if not any(notation in text for notation in _notations(given)):
                self._form = form
                return Written(given, beside, text, marked)
        raise InvalidError(
            f"dataset.columns.messages: the chat template refuses {row} ({complaint or 'it takes no such content'}); "
            "change or remove the row"
        )

    def text(self, messages: list[dict[str, Any]], beside: dict[str, Any], answering: bool = False) -> str | None:
        """Render other messages in the form that fits the conversation, or return None if the template refuses them.

        With `answering`, the text ends where the assistant begins to answer. A template may refuse a part of a
        conversation that it accepts as a whole.
        """
        if not messages:
            return None
        try:
            text: Any = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=answering, tokenize=False, **beside
            )
        except Exception:  # As above, the template may raise anything.
            return None
        return str(text)

    def _writes_answer_of(self, messages: list[dict[str, Any]]) -> bool:
        text = self.text(messages, {})
        return text is not None and PLAIN[-1]["content"] in text

    def _forms(self, messages: list[dict[str, Any]]) -> Iterator[Form]:
        """Yield the forms that make a difference for these messages, beginning with the one that worked last."""
        yield self._form
        choices = Form(
            any(True for _ in _calls(messages)),
            any(isinstance(message.get("content"), list) for message in messages),
            any("content" not in message for message in messages),
        )
        for changed in itertools.product(*((False, True) if differs else (False,) for differs in choices)):
            if (form := Form(*changed)) != self._form:
                yield form

    def _render(
        self, messages: list[dict[str, Any]], beside: dict[str, Any]
    ) -> tuple[str, list[tuple[int, int]] | None]:
        template = self._tokenizer.get_chat_template(tools=beside.get("tools"))
        if not GENERATION_BLOCK.search(template):
            text: Any = self._tokenizer.apply_chat_template(messages, tokenize=False, **beside)
            return text, None
        options: dict[str, Any] = {**beside, **self._tokenizer.special_tokens_map}
        rendered: Any = render_jinja_template(
            conversations=[messages], chat_template=template, return_assistant_tokens_mask=True, **options
        )
        texts, marked = rendered
        return texts[0], marked[0]

    def _complaint(self, error: Exception, beside: dict[str, Any]) -> str:
        """Return the template's error message, as far as the template itself contains it.

        The rest may be text of the row.
        """
        said = (str(error).splitlines() or [""])[0][:LONGEST_COMPLAINT]
        try:
            template = self._tokenizer.get_chat_template(tools=beside.get("tools"))
        except ValueError:
            return said  # This is the message of transformers: there are several templates and no default.
        names = QUOTED.findall(said)
        if isinstance(error, TypeError) or (
            isinstance(error, UndefinedError)
            and all(name in template or name.endswith(PYTHON_OBJECT) for name in names)
        ):
            return said  # The message contains types and names, but no values.
        length = len(said)
        while said[:length] not in template:
            length -= 1
        if length < SHORTEST_COMPLAINT:
            return type(error).__name__
        return said[:length] + ("…" if length < len(said) else "")


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _formed(message: Message, form: Form) -> dict[str, Any]:
    formed = dict(message)
    content = formed.get("content")
    if content is None and form.missing_as_empty:
        formed["content"] = ""
    if isinstance(content, list) and form.parts_as_text:
        formed["content"] = "".join(part["text"] for part in content)
    if "tool_calls" in formed:
        formed["tool_calls"] = [_call(call, form.arguments_as_text) for call in formed["tool_calls"]]
    return formed


def _call(call: Message, as_text: bool) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, dict) and "arguments" in function:
        return {**call, "function": _with_arguments(function, as_text)}
    return _with_arguments(call, as_text) if "arguments" in call else dict(call)


def _with_arguments(function: Message, as_text: bool) -> dict[str, Any]:
    given = function["arguments"]
    if as_text:
        return {**function, "arguments": given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)}
    return {**function, "arguments": _parsed(given) if isinstance(given, str) else given}


def _parsed(arguments: str) -> Any:
    """Return the arguments as an object, or the text as the model wrote it if it is not a JSON object."""
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _calls(messages: list[dict[str, Any]]) -> Iterator[Message]:
    for message in messages:
        yield from message.get("tool_calls", ())


def _notations(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the Python representation of the lists and objects in the messages, which no model should learn."""
    for call in _calls(messages):
        arguments = call.get("function", call).get("arguments")
        if arguments and not isinstance(arguments, str):
            yield repr(arguments)
    for message in messages:
        if isinstance(message.get("content"), list):
            yield repr(message["content"])
