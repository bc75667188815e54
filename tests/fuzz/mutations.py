"""Invalid manifests: FineTuneJobs drawn from the CRD's schema and then changed regardless of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from fuzz.from_schema import JSON, values_of
from hypothesis import strategies as st
from support.manifests import manifest

from finetune_operator.protocol import Object

Place = tuple[Any, Any]
"""A dictionary or list, and a key or index of it."""

DEFINITION = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"
SCHEMA = yaml.safe_load(DEFINITION.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
STATUSES = values_of(SCHEMA["status"])
SPEC_FIELDS = {name: values_of(field) for name, field in SCHEMA["spec"]["properties"].items()}
TASKS: tuple[Object, ...] = (
    {},
    {"spec.task": "CausalLM", "spec.dataset.columns": {"prompt": "note", "completion": "summary"}},
    {"spec.task": "ImageClassification", "spec.dataset.columns": {"image": "image", "label": "label"}},
)


def _nested(depth: int, around: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = around(value)
    return value


SCALARS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 10**40, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"),
    "", " ", "1", "true", "null", "NaN", "~", "-", ".", "..", "/", "{}", "a: b", "\x00", "\n", "a\nb", "\x1b[2J",
    "\u202eevil", "\ufeff", "é" * 200, "\U0001d54f", "\u0663", "x" * 64, "x" * 2000, "y" * 100_000,
    "hf://a", "file://", "pvc:///a", "workspace://../../etc/passwd", "hf://a/b\n", "workspace://" + "a/" * 600,
    "1e99", "4 Gi", "0", "0" * 40 + "1", "2026-01-01", "9999-12-31T23:59:59Z",
)  # fmt: skip
COLLECTIONS: tuple[Callable[[], Any], ...] = (
    list, dict, lambda: [[]], lambda: [None], lambda: [{}], lambda: {"": ""}, lambda: {"a": None}, lambda: ["x"] * 1000,
    lambda: {f"k{n}": n for n in range(300)}, lambda: {"name": None}, lambda: [{"name": ["x"]}],
    lambda: {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": 1}}, lambda: {"nodeAffinity": None},
    lambda: _nested(40, lambda below: [below]), lambda: _nested(400, lambda below: {"a": below}),
    lambda: _nested(3000, lambda below: [below]),
)  # fmt: skip
NONSENSE = (*(partial(copy.copy, value) for value in SCALARS), *COLLECTIONS)
"""Factories of invalid values: each use gets a new object, because a test may change it."""
KEYS = st.sampled_from(
    [
        "",
        "int",
        "str",
        "unknown",
        "gpus_per_node",
        "zero_stage",
        "Spec",
        "k" * 5000,
        "a.b",
        "a b",
        "\u202e",
        "0",
        "$ref",
    ]
)
"""Names of fields that no schema has."""


@st.composite
def fitting(draw: st.DrawFn) -> Object:
    """Draw a valid job with some fields drawn again from the schema; rules over several fields may be broken."""
    job = manifest(**copy.deepcopy(draw(st.sampled_from(TASKS))))
    for name in draw(st.lists(st.sampled_from(sorted(SPEC_FIELDS)), min_size=1, max_size=3, unique=True)):
        job["spec"][name] = draw(SPEC_FIELDS[name])
    return job


@st.composite
def unfitting(draw: st.DrawFn) -> Object:
    """Draw a job that is changed regardless of the schema in one to three places."""
    return mutated(draw, draw(fitting()))


@st.composite
def with_status(draw: st.DrawFn) -> Object:
    """Draw a valid job whose status comes from the schema, and is sometimes changed regardless of it."""
    job = {"status": draw(STATUSES)}
    if draw(st.booleans()):
        mutated(draw, job)
    return {**manifest(), **job}


def mutated(draw: st.DrawFn, value: Object) -> Object:
    """Change the value in place, in one to three places."""
    for _ in range(draw(st.integers(1, 3))):
        if value:
            _mutate(draw, value)
    return value


def _mutate(draw: st.DrawFn, job: Object) -> None:
    below, key = _place(draw, job)
    match draw(st.sampled_from(["replace", "replace", "remove", "add", "wrap", "json"])):
        case "replace":
            below[key] = draw(st.sampled_from(NONSENSE))()
        case "remove":
            del below[key]
        case "add" if isinstance(below, dict):
            below[draw(KEYS)] = draw(st.sampled_from(NONSENSE))()
        case "json":
            below[key] = draw(JSON)
        case _:
            below[key] = [below[key]]


def _place(draw: st.DrawFn, value: Object) -> Place:
    """Draw a place below an object, mostly in the spec; deep places are as likely as shallow ones."""
    below: Any = value["spec"] if isinstance(value.get("spec"), dict) and value["spec"] else value
    if draw(st.integers(0, 9)) == 0:
        below = value
    while True:
        key = draw(st.sampled_from(sorted(below, key=str) if isinstance(below, dict) else range(len(below))))
        if not below[key] or not isinstance(below[key], dict | list) or draw(st.integers(0, 3)) == 0:
            return below, key
        below = below[key]


def fuzzed() -> st.SearchStrategy[Object]:
    """Return a strategy for both kinds of jobs, with the changed ones twice as often."""
    return st.one_of(fitting(), unfitting(), unfitting())


def stored(job: Object, name: str) -> Object:
    """Return the job as an API server would that checks only the metadata.

    It has at most two nodes, because pods are not what is fuzzed.
    """
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1}
    found = {**job, "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata}
    match found:
        case {"spec": {"resources": {"nodes": int(nodes)} as resources}} if nodes > 2:
            resources["nodes"] = 2
    return found
