"""Validates a conversation and writes it as one JSON text, with all keys that the chat template may use.

The text is an object with `messages` and, if the row has them, `tools` and `documents`. It is one text and not a struct
of columns, because a struct has the same keys in every row, and messages do not.

The rules are those of OpenAI's fine-tuning files: `content` is a text or a list of parts, and may be missing if the
assistant calls a tool; an assistant message with `weight` 0 is not learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_trainer.errors import InvalidError

SHAPE = "a list of {role, content} objects with strings"
ANSWER_KEYS = ("tool_calls", "function_call", "reasoning_content", "thinking", "reasoning")
"""The keys besides `content` that hold output of the assistant."""
BESIDE_MESSAGES = ("tools", "documents")
"""The keys of a row that a chat template reads besides the messages."""
RENAMED_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""The roles of other formats, which no chat template knows, and their usual names."""
LONGEST_ROLE = 40
"""The greatest length of a role in characters. A longer role is probably user data in the wrong place."""
ARROW_SUFFIXES = (".parquet", ".arrow")


def conversation(value: list[Any], row: Mapping[str, Any], row_id: str, at: str) -> tuple[str, str]:
    """Return the JSON text of a row's conversation, and the text that the row's digest covers, which omits weights.

    `value` is the column of messages, `row` holds all columns, and `at` names the place in an InvalidError. Raises
    InvalidError if the conversation is malformed.
    """
    if _is_columnar(row_id):
        value = _without_nulls(value)
    messages = [_message(message, number, at) for number, message in enumerate(value, 1)]
    _refuse_if_nothing_is_learned(messages, at)
    beside = {key: given for key in BESIDE_MESSAGES if (given := _beside(key, row.get(key), row_id, at))}
    read = [{key: part for key, part in message.items() if key != "weight"} for message in messages]
    # Without tools and documents, the digested text is the list of messages alone, as it was before these keys were
    # supported: the digest determines whether the row is a training or an evaluation row.
    return _json({"messages": messages, **beside}), _json({"messages": read, **beside} if beside else read)


def _message(message: Any, number: int, at: str) -> dict[str, Any]:
    """Validate a message and return it without null keys, and with a weight only if that is 0."""
    if isinstance(message, dict) and {"from", "value"} <= message.keys() and "role" not in message:
        raise InvalidError(
            f"{at} has message {number} with from and value instead of role and content; rename these keys, and the "
            "roles human to user and gpt to assistant"
        )
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidError(f"{at} has message {number} without role and content as strings; write {SHAPE}")
    role = message["role"]
    if role in RENAMED_ROLES:
        raise InvalidError(
            f"{at} has role {role!r} in message {number}; chat templates call it {RENAMED_ROLES[role]!r}, so rename it"
        )
    if len(role) > LONGEST_ROLE:
        raise InvalidError(f"{at} has a role of {len(role)} characters in message {number}; write one such as user")
    checked = {"role": role, **_content(message, number, at)}
    checked |= {key: part for key, part in message.items() if part is not None and key not in ("weight", *checked)}
    if not checked.get("tool_calls", True):
        del checked["tool_calls"]
    if "tool_calls" in checked and not _are_objects(checked["tool_calls"]):
        raise InvalidError(f"{at} has tool_calls in message {number} that are not a list of objects; write such a list")
    return checked | ({"weight": 0} if _weight(message.get("weight"), number, at) == 0 else {})


def _content(message: Mapping[str, Any], number: int, at: str) -> dict[str, Any]:
    match content := message.get("content"):
        case str():
            return {"content": content}
        case None if message["role"] == "assistant" and any(message.get(key) for key in ANSWER_KEYS):
            return {}
        case list():
            if all(
                isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
                for part in content
            ):
                return {
                    "content": [{key: given for key, given in part.items() if given is not None} for part in content]
                }
            raise InvalidError(
                f"{at} has a part in message {number} that is not of type text; a language model reads text only, "
                "so remove the part or the row"
            )
    raise InvalidError(f"{at} has message {number} without role and content as strings; write {SHAPE}")


def _weight(weight: Any, number: int, at: str) -> int:
    if weight is None:
        return 1
    if isinstance(weight, (int, float)) and not isinstance(weight, bool) and weight in (0, 1):
        return int(weight)
    shown = f"weight {weight}" if isinstance(weight, (int, float)) else "a weight that is not a number"
    raise InvalidError(f"{at} has {shown} in message {number}; write 0 to leave the message out, or 1 to learn it")


def _refuse_if_nothing_is_learned(messages: list[dict[str, Any]], at: str) -> None:
    answers = [message for message in messages if message["role"] == "assistant" and _says_something(message)]
    if not answers:
        raise InvalidError(
            f"{at} has no assistant message with content, so nothing to learn; add one or remove the row"
        )
    if all("weight" in message for message in answers):
        raise InvalidError(
            f"{at} gives weight 0 to every message of the assistant, so nothing to learn; "
            "give one of them weight 1 or remove the row"
        )


def _says_something(message: Mapping[str, Any]) -> bool:
    content = message.get("content", "")
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return any(text.strip() for text in texts) or any(message.get(key) for key in ANSWER_KEYS)


def _beside(key: str, value: Any, row_id: str, at: str) -> list[Any] | None:
    """Return the tools or documents of the row: a list of objects, or None.

    Columnar files may hold the list as a JSON text. Raises InvalidError if the value is neither.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidError(f"{at}: {key} of the row is not JSON; write a list of objects or rename it") from None
    elif _is_columnar(row_id):
        value = _without_nulls(value)
    if not value:
        return None
    if not _are_objects(value):
        raise InvalidError(f"{at}: {key} of the row is not a list of objects; write such a list or rename it")
    found: list[Any] = value
    return found


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _is_columnar(row_id: str) -> bool:
    """Return whether the row comes from an Arrow or Parquet file or from the hub.

    The id of a row from the hub begins with the name of a split.
    """
    name = row_id.rpartition(":")[0]
    return name.lower().endswith(ARROW_SUFFIXES) or "." not in name


def _without_nulls(value: Any) -> Any:
    """Remove null keys, because Arrow gives every object all keys of the column, with null for missing ones."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _json(value: Any) -> str:
    """Encode a value as JSON. Values that JSON lacks, such as the dates of a Parquet file, become texts."""
    return json.dumps(value, ensure_ascii=False, default=str)
