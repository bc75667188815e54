"""The base classes of all messages, their canonical JSON, and how they may grow from release to release."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = 2
"""The newest contract version that this code knows. A release that adds a field to run.json or changes its meaning has
the next number; `tests/contract_versions` keeps what each release wrote and read."""
ImageContract = Annotated[int, Field(ge=1, exclude_if=lambda version: version == 1)]
"""The newest contract version that the image knows, as its pods report it. It is absent from the JSON if it is 1."""
_SINCE = "x-since-contract"


class Message(BaseModel):
    """The base of run.json and its parts: immutable, with camelCase keys in JSON; unknown keys are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Return canonical JSON, with sorted keys and no spaces; a field that is None is absent."""
        return json.dumps(self.json_fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def json_fields(self) -> dict[str, Any]:
        """Return the fields of the JSON as a dictionary."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Answer(Message):
    """The base of what a pod reports to the operator. Unknown keys are ignored, because the image may be newer."""

    model_config = ConfigDict(extra="ignore")


AnyMessage = TypeVar("AnyMessage", bound=Message)


def added(default: Any, since: int) -> Any:
    """Declare a field that was added to the contract in the version `since`.

    While the field has its default, it is absent from the JSON, so that an older image accepts the run.json and
    computes the same digest. The default must mean what images did before the field existed.
    """
    return Field(default, exclude_if=lambda value: value == default, json_schema_extra={_SINCE: since})


def version_needed(message: Message) -> int:
    """Return the oldest contract version that knows every field which this message writes."""
    versions = [1]
    for name, field in type(message).model_fields.items():
        value = getattr(message, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and _SINCE in extra and value != field.default:
            versions.append(int(str(extra[_SINCE])))
        if isinstance(value, Message):
            versions.append(version_needed(value))
    return max(versions)


def limited_to(message: AnyMessage, version: int) -> AnyMessage:
    """Return the message as a contract version knows it: fields that were added later have their default."""
    limited: dict[str, Any] = {}
    for name, field in type(message).model_fields.items():
        value, extra = getattr(message, name), field.json_schema_extra
        if isinstance(extra, dict) and int(str(extra.get(_SINCE, 1))) > version:
            limited[name] = field.default
        elif isinstance(value, Message):
            limited[name] = limited_to(value, version)
    return message.model_copy(update=limited)
