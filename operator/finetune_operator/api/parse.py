"""From a manifest to a FineTuneJob, or to sentences that name field, value and remedy."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.api.validation import broken_rules
from finetune_operator.constants import API_VERSION, KIND

URI_FORMS = "hf://owner/name, workspace://path, pvc://claim/path or file:///path"


class InvalidManifestError(Exception):
    """The manifest is not a FineTuneJob that can run; `sentences` say why, each with a remedy."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


def parse(manifest: Mapping[str, Any]) -> FineTuneJob:
    """The job in a manifest. Raises InvalidManifestError with every fault that was found."""
    if manifest.get("apiVersion") != API_VERSION or manifest.get("kind") != KIND:
        found = f"{_shown(manifest.get('apiVersion'))}, {_shown(manifest.get('kind'))}"
        raise InvalidManifestError([f"apiVersion, kind: {found} is not a FineTuneJob; write {API_VERSION} and {KIND}"])
    try:
        job = FineTuneJob.model_validate(manifest)
    except ValidationError as error:
        raise InvalidManifestError(_sentences(error)) from None
    if broken := broken_rules(job.metadata.name, job.spec):
        raise InvalidManifestError(broken)
    return job


def _sentences(error: ValidationError) -> list[str]:
    return list(dict.fromkeys(_sentence(dict(fault)) for fault in error.errors()))


def _sentence(fault: dict[str, Any]) -> str:
    where = _path(fault["loc"])
    context = fault.get("ctx", {})
    value = _shown(fault["input"])
    match fault["type"]:
        case "missing":
            return f"{where}: is missing; add it"
        case kind if fault["input"] is None and kind != "extra_forbidden":
            return f"{where}: is empty; give it a value"
        case _ if fault["loc"][-1] in ("int", "str"):  # pydantic's names for the branches of int | str
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


def _path(location: Sequence[int | str]) -> str:
    parts: list[str] = []
    for part in location:
        if isinstance(part, int):
            parts[-1] += f"[{part}]"
        elif part not in ("int", "str"):
            parts.append(to_camel(part))
    return ".".join(parts)


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


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
    """The model whose field a location names."""
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
