"""Parses a manifest into a FineTuneJob, or into messages that name the field, the value and the remedy."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from finetune_operator.api.shown import MAX_SHOWN, cut, shown
from finetune_operator.api.v1alpha1 import READ_BACK, FineTuneJob, FineTuneJobStatus
from finetune_operator.api.validation import broken_rules
from finetune_operator.constants import API_VERSION, KIND

URI_FORMS = "hf://owner/name, workspace://path, pvc://claim/path or file:///path"
MAX_DEPTH = 32
"""The maximum depth of nested objects and lists.

An API server accepts thousands of levels, but no field of a pod or of DeepSpeed's configuration needs more than these,
and much deeper values cannot be serialized.
"""
MAX_SENTENCES = 20
MAX_PATH = 160
"""The maximum number of characters of the field path in a message."""
_TOLD = frozenset({"observedGeneration", "phase", "conditions", "progress", "checkpoint", "evaluation"})
"""The status fields that the operator only reports. Decisions depend on the others, so a fault in those is an error."""


class InvalidManifestError(Exception):
    """The manifest is not a FineTuneJob that can run; each of `sentences` names a fault and its remedy."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


class InvalidStatusError(InvalidManifestError):
    """The spec is valid, but a part of the status that decisions depend on cannot be read."""


def parse(manifest: Mapping[str, Any]) -> FineTuneJob:
    """Return the FineTuneJob in a manifest.

    Raises InvalidManifestError with the faults of the spec (of the schema's faults, at most MAX_SENTENCES), or
    InvalidStatusError with those of the status.
    """
    if unreadable := list(_unreadable(manifest)):
        raise InvalidManifestError(unreadable[:MAX_SENTENCES])
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != KIND:
        found = f"{shown(manifest.get('apiVersion'))}, {shown(manifest.get('kind'))}"
        raise InvalidManifestError([f"apiVersion, kind: {found} is not a FineTuneJob; write {API_VERSION} and {KIND}"])
    fields = {key: value for key, value in manifest.items() if key != "status"}
    try:
        job = FineTuneJob.model_validate(fields, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidManifestError(_sentences(error)) from None
    if broken := broken_rules(job.metadata.name, job.spec):
        raise InvalidManifestError(broken)
    status, faults = read_status(manifest.get("status"))
    if sentences := [sentence for field, sentence in faults if field not in _TOLD]:
        raise InvalidStatusError(sentences[:MAX_SENTENCES])
    return job.model_copy(update={"status": status})


def read_status(status: Any) -> tuple[FineTuneJobStatus, list[tuple[str, str]]]:
    """Return the readable fields of a status, and the faults of the others as pairs of field and message.

    A fault anywhere inside a field makes the whole field unreadable.
    """
    if not isinstance(status, Mapping):  # treated like a status that has not been written yet
        return FineTuneJobStatus(), []
    try:
        return FineTuneJobStatus.model_validate(status, by_alias=True, by_name=False, context=READ_BACK), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [(str(fault["loc"][0]), f"{_path(('status', *fault['loc']))}: {fault['msg']}") for fault in found]
    bad = {field for field, _ in faults}
    readable = {key: value for key, value in status.items() if key not in bad}
    return FineTuneJobStatus.model_validate(readable), [(f, f"{text}; {_STATUS_REMEDY}") for f, text in faults]


_STATUS_REMEDY = "restore the status, or delete the FineTuneJob and create it again"


def _unreadable(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each value that the API's JSON cannot represent or that is nested too deeply.

    The traversal is iterative, so that deep nesting cannot exhaust the stack.
    """
    looked_at = {key: value for key, value in manifest.items() if key != "status"}
    if isinstance(metadata := manifest.get("metadata"), Mapping):
        looked_at["metadata"] = {key: value for key, value in metadata.items() if key != "managedFields"}
    places: list[tuple[tuple[int | str, ...], Any]] = [((), looked_at)]
    while places:
        path, value = places.pop()
        if isinstance(value, Mapping | list) and len(path) > MAX_DEPTH:
            yield f"{_path(path[:3])}: is nested more than {MAX_DEPTH} deep; make it flatter"
        elif isinstance(value, Mapping):
            places += [((*path, str(key)), below) for key, below in value.items()]
        elif isinstance(value, list):
            places += [((*path, number), below) for number, below in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{_path(path)}: {value} is not a finite number; write one"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{_path(path)}: is beyond the whole numbers of 64 bits; write a smaller one"


def _sentences(error: ValidationError) -> list[str]:
    return list(dict.fromkeys(_sentence(dict(fault)) for fault in error.errors()[:MAX_SENTENCES]))


def _sentence(fault: dict[str, Any]) -> str:
    where = _path(fault["loc"])
    context = fault.get("ctx", {})
    value = shown(fault["input"])
    match fault["type"]:
        case "missing":
            return f"{where}: is missing; add it"
        case kind if fault["input"] is None and kind != "extra_forbidden":
            return f"{where}: is empty; give it a value"
        case _ if _is_branch(fault["loc"]):
            return f"{where}: {value} is neither a whole number nor text; put it in quotes"
        case "extra_forbidden":
            return _unknown_field(fault["loc"], where)
        case "literal_error":
            return f"{where}: {value} is not one of {_either(context['expected'])}; use one of them"
        case "string_pattern_mismatch" if "uri" in str(fault["loc"][-1]):
            return f"{where}: {value} is not a place that can be read; write {URI_FORMS}"
        case "string_pattern_mismatch" if where == "metadata.namespace":
            return f"{where}: {value} is not the name of a namespace; use lowercase letters, digits and '-'"
        case "string_too_short":
            return f"{where}: {value} is too short; write at least {context['min_length']} character"
        case "string_too_long":
            return f"{where}: {value} is too long; write at most {context['max_length']} characters"
        case "greater_than_equal":
            return f"{where}: {value} is too small; use {_number(context['ge'])} or more"
        case "greater_than":
            return f"{where}: {value} is too small; use more than {_number(context['gt'])}"
        case "less_than_equal":
            return f"{where}: {value} is too large; use {_number(context['le'])} or less"
        case "less_than":
            return f"{where}: {value} is too large; use less than {_number(context['lt'])}"
        case "too_short":
            return f"{where}: {value} has too few entries; give at least {context['min_length']} or remove the field"
        case "too_long":
            return f"{where}: has {context['actual_length']} entries; give at most {context['max_length']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{where}: {value} is not an object; write its fields below it, indented"
        case "list_type":
            return f"{where}: {value} is not a list; write [..] or one '- ' line for each entry"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"{where}: {value} is not a whole number; write one without quotes"
        case "float_type" | "float_parsing":
            return f"{where}: {value} is not a number; write one without quotes"
        case "finite_number":
            return f"{where}: {value} is not a finite number; write one"
        case "bool_type" | "bool_parsing":
            return f"{where}: {value} is neither true nor false; write one of them, without quotes"
        case "string_type":
            return f"{where}: {value} is not text; put it in quotes"
    return f"{where}: {value} is not valid: {fault['msg']}"


def _is_branch(location: Sequence[int | str]) -> bool:
    """Return whether the last part is pydantic's name for a branch of `int | str`, the type of amounts in resources."""
    return len(location) == 4 and tuple(location[:2]) == ("spec", "resources") and location[-1] in ("int", "str")


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location[:-1] if _is_branch(location) else location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + (cut(part, MAX_SHOWN) or "''")
    return cut(path, MAX_PATH)


def _number(bound: float) -> str:
    return str(int(bound) if bound == int(bound) else bound)


def _either(expected: str) -> str:
    return expected.replace(" or ", ", ")


def _unknown_field(location: Sequence[int | str], where: str) -> str:
    model = _model_at(FineTuneJob, location[:-1])
    known = sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"{where}: there is no such field; did you mean {near[0]}?"
    return f"{where}: there is no such field; the fields here are {', '.join(known)}"


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the model at a location, or None if the location does not lead to a model."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        aliases = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
        current = _as_model(aliases.get(str(part)))
    return current


def _as_model(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in (Union, types.UnionType):
        return next((m for a in get_args(annotation) if (m := _as_model(a))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
