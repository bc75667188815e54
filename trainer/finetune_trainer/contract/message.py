"""The base of all messages: JSON that is the same for the same content, and how it may grow from release to release."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = 2
"""The newest contract that this code knows. A release whose run.json has a new field or a new meaning has the next
number; `tests/contract_versions` keeps what each release wrote and read."""
ImageContract = Annotated[int, Field(ge=1, exclude_if=lambda version: version == 1)]
"""The newest contract that the image knows, as its pods tell it. In JSON it is absent when it is 1."""
_SINCE = "x-since-contract"


class Message(BaseModel):
    """The base of run.json and its parts: immutable, camelCase in JSON, unknown keys are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, absent instead of null."""
        return json.dumps(self.json_fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def json_fields(self) -> dict[str, Any]:
        """What the JSON holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Answer(Message):
    """The base of what a pod tells the operator: unknown keys are ignored, because the image may be the newer one."""

    model_config = ConfigDict(extra="ignore")


AnyMessage = TypeVar("AnyMessage", bound=Message)


def added(default: Any, since: int) -> Any:
    """A field that the contract has since a version after 1.

    While the field has its default it is absent from the JSON, so that an older image accepts the run.json and computes
    the same digest from it. The default must mean what images did before there was the field.
    """
    return Field(default, exclude_if=lambda value: value == default, json_schema_extra={_SINCE: since})


def version_needed(message: Message) -> int:
    """The oldest contract version that knows every field which this message writes."""
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
    """The message as that contract version knows it: fields that came later have their default."""
    limited: dict[str, Any] = {}
    for name, field in type(message).model_fields.items():
        value, extra = getattr(message, name), field.json_schema_extra
        if isinstance(extra, dict) and int(str(extra.get(_SINCE, 1))) > version:
            limited[name] = field.default
        elif isinstance(value, Message):
            limited[name] = limited_to(value, version)
    return message.model_copy(update=limited)
